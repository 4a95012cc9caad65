"""Routes: from a model and a training sample to the states that a score looks at."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.cycling.ensemble import cycle_ensemble
from diffassim.learned.analysis import Remembered
from diffassim.models.rollout import rollout
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.minimize import minimize

__all__ = ["AnalysisForecast", "FilterCycle", "FilterForecast", "Forecast", "Route", "WindowSample"]


class WindowSample(Pytree):
    """One training sample: where to start from, what to assimilate, and what to predict.

    Observations that are withheld, later ones, and a known truth are all the same: a stream that a score compares with
    and an analysis does not see. A truth has the identity as its operator and a climatological spread as its error.

    Args:
        background: state at the window start, or an ensemble.
        window: `Observations` to assimilate.
        future: `Observations` to predict, in the window or after it; steps count from the window start.
        start: number of the window's first step.
    """

    background: Any
    window: Any = None
    future: Any = None
    start: Any = 0


class Route(Pytree):
    """Base of all routes: (model, sample, rows, key) -> states at these rows, counted from the window start.

    Derivatives pass through everything on the way: forecasts, analyses (implicitly, or through their iterations), whole
    filter cycles. What is trained is the model, any part of it, or whatever else the route holds (B, the filter):
    build the route inside of the loss from the trainable.
    """

    @property
    def ensemble(self) -> bool:
        """Whether the states have a leading member axis."""
        return False

    def __call__(self, model: Any, sample: WindowSample, rows: Any, key: Any) -> Any:
        """Return the states, with leading axes (member,) row.

        Args:
            model: forward model.
            sample: one sample.
            rows: steps after the window start, shape (row,).
            key: random key; None where nothing is drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(model, sample, rows, key)")


class Forecast(Route):
    """The forecast from the sample's background, without any analysis.

    Args:
        lead: steps of the forecast, at least the last row that is asked for (static).

    Example:
        >>> import diffassim as da
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> Forecast(2)(still, WindowSample(jnp.ones(3)), jnp.array([0, 2]), None).shape
        (2, 3)
    """

    lead: int = static()

    def __call__(self, model: Any, sample: WindowSample, rows: Any, key: Any) -> Any:
        """Return the forecast at the rows."""
        return rollout(model, sample.background, self.lead, start=sample.start, at=rows)


class AnalysisForecast(Route):
    r"""The forecast that starts from the 4D-Var analysis of the window.

    .. math:: x_a(\theta) = x_b + B^{1/2} \arg\min_v J(v; \theta)

    Args:
        B: background-error covariance.
        steps: window length (static).
        lead: model steps from the window start to the last row (static).
        minimizer: see `minimize`.
        unrolled: differentiate the iterations of the search instead of its end (static).

    Source: loss through the solution of an inner variational problem, Farchi et al. (2021), section 2.
    """

    B: Any
    steps: int = static()
    lead: int = static()
    minimizer: Any = GaussNewton()
    unrolled: bool = static(default=False)

    def __call__(self, model: Any, sample: WindowSample, rows: Any, key: Any) -> Any:
        """Return the forecast at the rows, which may lie in the window."""
        cost = StrongConstraint4DVar(
            model, sample.background, self.B, sample.window, start=sample.start, steps=self.steps
        )
        x_a = minimize(cost, self.minimizer, unrolled=self.unrolled).state
        return rollout(model, x_a, self.lead, start=sample.start, at=rows)


class FilterCycle(Route):
    """The forecasts of a filter's members to each analysis time of the window, before the analysis there.

    With `GaussianLikelihood` of the window's own observations it gives the innovation likelihood, which
    needs no truth.

    Args:
        method: ensemble method, for example `ETKF`.
        interval: steps from one observation time of the window to the next, and to the first (static).

    Source: Chen, Sanz-Alonso and Willett (2022), section 4.
    """

    method: Any
    interval: int = static()

    @property
    def ensemble(self) -> bool:
        """Members come first."""
        return True

    def __call__(self, model: Any, sample: WindowSample, rows: Any, key: Any) -> Any:
        """Return the background members at the observation times of the window.

        Raises:
            ConfigurationError: if other rows are asked for, or the observation times are not `interval` steps apart.
        """
        steps, asked = concrete(sample.window.steps), concrete(rows)
        every = self.interval * (1 + np.arange(sample.window.steps.shape[0]))
        if any(known is not None and not np.array_equal(known, every) for known in (steps, asked)):
            raise ConfigurationError(
                f"FilterCycle: the window's observations must lie {self.interval} steps apart, and are what is scored "
                f"(Score(of='window')); found them at {steps}, asked {asked}"
            )
        _, history = cycle_ensemble(
            self.method, model, sample.background, sample.window, key=key, start=sample.start, members=True
        )
        background, later = (_members("FilterCycle", each) for each in (sample.background, history.members))
        earlier = jax.tree.map(lambda first, later: jnp.concatenate([first[None], later[:-1]]), background, later)
        starts = sample.start + self.interval * jnp.arange(len(every), dtype=jnp.int32)

        def forecast(x: Any, start: Any) -> Any:
            ends = rollout(model, x, self.interval, start=start, at=jnp.asarray([self.interval], jnp.int32))
            return jax.tree.map(lambda leaf: leaf[0], ends)

        members = jax.vmap(jax.vmap(forecast, in_axes=(0, None)))(earlier, starts)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), members)


def _members(name: str, belief: Any) -> Any:
    """Return the members of what a filter hands on, or raise where it hands on none."""
    if isinstance(belief, Pytree) and not hasattr(belief, "state"):
        raise ConfigurationError(f"{name}: the method hands on {type(belief).__name__} and no members")
    return belief.state if isinstance(belief, Remembered) else belief


class FilterForecast(Route):
    """The ensemble forecast that starts where a filter has analysed the window's last observations.

    Args:
        method: ensemble method, for example `ETKF`.
        steps: step of the window's last observation (static).
        lead: model steps from the window start to the last row (static).
    """

    method: Any
    steps: int = static()
    lead: int = static()

    @property
    def ensemble(self) -> bool:
        """Members come first."""
        return True

    def __call__(self, model: Any, sample: WindowSample, rows: Any, key: Any) -> Any:
        """Return the members at the rows.

        Raises:
            ConfigurationError: if a row lies before the last analysis.
        """
        asked = concrete(rows)
        if asked is not None and asked.size and asked.min() < self.steps:
            raise ConfigurationError(
                f"FilterForecast: row {asked.min()} lies before the last analysis at step {self.steps}; score "
                "observations after it, or take FilterCycle"
            )
        belief, _ = cycle_ensemble(self.method, model, sample.background, sample.window, key=key, start=sample.start)
        members = _members("FilterForecast", belief)
        start = sample.start + self.steps

        def forecast(x: Any) -> Any:
            return rollout(model, x, self.lead - self.steps, start=start, at=rows - self.steps)

        return jax.vmap(forecast)(members)
