"""The one name for cycled assimilation, whatever the method analyses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.cycling.ensemble import cycle_ensemble
from diffassim.cycling.ensemble_windows import cycle_ensemble_windows
from diffassim.cycling.variational import cycle_windows
from diffassim.methods.sequential import SequentialMethod
from diffassim.methods.windows import EnsembleWindowMethod, WindowMethod

__all__ = ["cycle"]

RUNS: dict[type, Callable[..., Any]] = {
    SequentialMethod: cycle_ensemble,
    EnsembleWindowMethod: cycle_ensemble_windows,
    WindowMethod: cycle_windows,
}


def cycle(method: Any, model: Any, background: Any, observations: Any, **options: Any) -> tuple[Any, Any]:
    """Alternate forecast and analysis, and return what is known at the end with the history.

    What is cycled depends on the method:

    - a `SequentialMethod` (`ETKF`, `EKF`, `ParticleFilter`, ...) analyses an ensemble, a Gaussian or weighted particles
      at each observation time of a record: see
      `cycle_ensemble(method, model, ensemble, observations, *, key, start, members, priors)`;
    - an `EnsembleWindowMethod` (`IEnKS`, `AsynchronousFilter`) analyses an ensemble over windows cut by
      `split_windows`: see `cycle_ensemble_windows(method, model, ensemble, windows, *, steps, shift, key, start, at,
      members, priors)`;
    - a `WindowMethod` (`FourDVar`, `HybridFourDVar`) analyses windows cut by `split_windows`: see
      `cycle_windows(method, model, background, windows, *, steps, shift, key, start, at, operators)`.

    Args:
        method: analysis method.
        model: forward model.
        background: ensemble, Gaussian or particles, or state at the start.
        observations: record of observations, or windows.
        **options: of the function above that belongs to the method.

    Returns:
        What is known at the end, to go on with, and the history of the method's kind.

    Raises:
        ConfigurationError: if the method is none of these, or the function takes no such option, or needs one.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((1, 40)), [1], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> da.cycle(da.ETKF(), da.models.Lorenz96(), ensemble, y)[0].shape
        (10, 40)
    """
    run = next((run for kind, run in RUNS.items() if isinstance(method, kind)), None)
    if run is None:
        found = f"the class {method.__name__}; call it" if isinstance(method, type) else type(method).__name__
        kinds = " or ".join(kind.__name__ for kind in RUNS)
        raise ConfigurationError(
            f"cycle: a method, like da.ETKF() or da.FourDVar(B), derives from {kinds} of da.methods; found {found}"
        )
    takes = {name: one for name, one in inspect.signature(run).parameters.items() if one.kind is one.KEYWORD_ONLY}
    unknown = [name for name in options if name not in takes]
    if unknown:
        raise ConfigurationError(
            f"cycle: with {type(method).__name__} there is no option {unknown[0]!r}; there are {', '.join(takes)}"
        )
    missing = [name for name, one in takes.items() if one.default is one.empty and name not in options]
    if missing:
        raise ConfigurationError(
            f"cycle: {type(method).__name__} analyses windows; give their length, {missing[0]}=..."
        )
    return run(method, model, background, observations, **options)
