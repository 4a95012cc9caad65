"""The one name for cycled assimilation, whatever the method analyses."""

from __future__ import annotations

from typing import Any

from diffassim.cycling.ensemble import cycle_ensemble
from diffassim.cycling.ensemble_windows import cycle_ensemble_windows
from diffassim.cycling.variational import cycle_windows
from diffassim.methods.sequential import SequentialMethod
from diffassim.methods.windows import EnsembleWindowMethod

__all__ = ["cycle"]


def cycle(method: Any, model: Any, background: Any, observations: Any, **options: Any) -> Any:
    """Alternate forecast and analysis.

    What is cycled depends on the method:

    - a `SequentialMethod` (`ETKF`, `EKF`, `ParticleFilter`, ...) analyses an ensemble, a Gaussian or weighted particles
      at each observation time of a record: see
      `cycle_ensemble(method, model, ensemble, observations, *, key, start, members) -> (ensemble, history)`;
    - an `EnsembleWindowMethod` (`IEnKS`, `AsynchronousFilter`) analyses an ensemble over windows cut by
      `split_windows`: see `cycle_ensemble_windows(method, model, ensemble, windows, *, steps, shift, key, start, at,
      members) -> (ensemble, history)`;
    - any other method (`FourDVar`) analyses windows cut by `split_windows`: see
      `cycle_windows(method, model, background, windows, *, steps, shift, start, at, operators) -> (background, model,
      history)`.

    Args:
        method: analysis method.
        model: forward model.
        background: ensemble, Gaussian or particles, or state at the start.
        observations: record of observations, or windows.
        **options: of the function above that belongs to the method.

    Returns:
        What that function returns.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((1, 40)), [1], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> da.cycle(da.ETKF(), da.models.Lorenz96(), ensemble, y)[0].shape
        (10, 40)
    """
    if isinstance(method, SequentialMethod):
        return cycle_ensemble(method, model, background, observations, **options)
    run = cycle_ensemble_windows if isinstance(method, EnsembleWindowMethod) else cycle_windows
    return run(method, model, background, observations, **options)
