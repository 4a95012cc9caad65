"""A simplified model for the inner loops of Gauss-Newton: other physics, a coarser grid, longer steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.paths import has_path, replace_at, value_at
from diffassim.core.pytree import Pytree, static
from diffassim.models.rollout import rollout
from diffassim.variational.costs.base import as_cost
from diffassim.variational.costs.parameters import StandIn
from diffassim.variational.minimizers.primal import Around, InnerMethod, PrimalCG
from diffassim.variational.minimizers.trust_region import TrustRegionStep

__all__ = ["Incremental", "Simplified"]


class Incremental(InnerMethod):
    """Conjugate gradients with simplified models first: the inner loops of incremental 4D-Var.

    The next level takes over where a step fails or the gradient norm hardly falls, and after the last one the full
    linearized model.

    Args:
        simplified: `Simplified` model, or a tuple of them, the coarsest first.
        cg: `PrimalCG`, which minimizes the quadratic model of every level.

    Raises:
        ConfigurationError: if one is not simplified, or there is none; or `cg` is no `PrimalCG`.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.ones((2, 8)), [2, 4], error=one)
        >>> fine = da.models.LinearAdvection(velocity=0.5)
        >>> cost = da.StrongConstraint4DVar(fine, jnp.zeros(8), one, obs)
        >>> slower = Incremental(Simplified(fine.replace(velocity=0.4)))
        >>> bool(da.minimize(cost, da.GaussNewton(inner=slower)).converged)
        True

    Source: as `Simplified`.
    """

    simplified: Any
    cg: PrimalCG = PrimalCG()

    def __post_init__(self) -> None:
        wrong = [level for level in self.levels if not isinstance(level, Simplified)]
        if wrong or not self.levels:
            found = type(wrong[0]).__name__ if wrong else "an empty tuple"
            raise ConfigurationError(f"Incremental: `simplified` takes Simplified(model), or several; found {found}")
        if not isinstance(self.cg, PrimalCG):
            raise ConfigurationError(
                f"Incremental: `cg` must be a PrimalCG, found {type(self.cg).__name__}; with a simplified model the "
                "gradient is not that of the linearized residuals, which DualCG needs"
            )

    @property
    def primal(self) -> PrimalCG:
        """What minimizes the quadratic model of every level."""
        return self.cg

    @property
    def levels(self) -> tuple[Any, ...]:
        """The simplified models, the coarsest first."""
        return self.simplified if isinstance(self.simplified, tuple) else (self.simplified,)

    def settled(self, start: Any, steps: int, memory: float) -> InnerMethod:
        """Return it with settled conjugate gradients; see `InnerMethod.settled`."""
        return self.replace(cg=self.cg.settled(start, steps, memory))

    def remember(self, start: Any) -> Any:
        """Return the preconditioner before the first inner loop."""
        return self.cg.remember(start)

    def step(self, around: Around, radius: Any, remembered: Any, unrolled: bool) -> TrustRegionStep:
        """Minimize the quadratic model; see `InnerMethod.step`."""
        return self.cg.step(around, radius, remembered, unrolled)


class Simplified(Pytree):
    r"""The model with which `Incremental` approximates the Hessian of a cost: incremental 4D-Var.

    .. math::
        p = \arg\min_p\; g^\top p + \tfrac12 p^\top (I + A_s^\top A_s)\, p, \qquad
        x_s(k) = P\, M_s^{k/e}(C\, x(0))

    g is the gradient of the full cost, once in each outer iteration; the many products of the inner loop take the
    Jacobian A_s of innovations along the simplified run x_s, where C coarsens and P refines the state and one of its
    steps covers e steps. The control vector, B, R, H and the observations stay those of the full cost, so that a
    product with the square root of B costs what it does there.

    Operational systems take the gradient of the inner cost from the simplified adjoint as well. Their outer loops then
    converge, if at all, to a point that is not the minimum of J (Gratton et al., 2007, section 4). Here the gradient
    is exact and steps are accepted by J itself: the search ends at the minimum of J, so that implicit gradients and
    second-order products hold, at the price of one full adjoint for each outer iteration. What the simplified model
    misses costs outer iterations; where they no longer pay, Gauss-Newton goes on to the next level, and at last to the
    full linearized model.

    Args:
        model: simplified model, `step(x, t) -> x`, on the coarse grid if there is one. Parameters that are sought are
            handed to what it has at the same path (coarsened if only then they fit); others do not change it.
        transfer: object with `coarsen(x)` and `refine(x)`, linear maps between the grids (`models.BlockMean`,
            `models.Truncation`); None: the same grid.
        every: steps of the full model that one of its steps covers (static). Its t counts its own steps; observations
            between them are interpolated linearly.

    Raises:
        ConfigurationError: if `every` is less than one; (in use) if the cost has no model.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.ones((2, 8)), [2, 4], error=one)
        >>> fine = da.models.LinearAdvection(velocity=0.5)
        >>> coarse = Simplified(fine.replace(spacing=2.0, dt=2.0), da.models.Truncation(2), every=2)
        >>> cost = da.StrongConstraint4DVar(fine, jnp.zeros(8), one, obs)
        >>> bool(da.minimize(cost, da.GaussNewton(inner=Incremental(coarse))).converged)
        True

    Source: Courtier, Thepaut and Hollingsworth (1994), section 4; several resolutions: Veerse and Thepaut (1998),
    Tremolet (2007); why the gradient is exact here: Gratton, Lawless and Nichols (2007), section 4.
    """

    model: Any
    transfer: Any = None
    every: int = static(default=1)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigurationError(f"Simplified.every must be at least 1, found {self.every}")

    def cost(self, cost: Any) -> Any:
        """Return the cost with its trajectories from the simplified model."""
        window = as_cost(cost).window()
        if window is None:
            raise ConfigurationError(f"Simplified: {type(cost).__name__} runs no model that could be simplified")
        return cost.with_window(model=_StandIn(window.model, self))


class _StandIn(StandIn):
    """The simplified model in the place of the full one: states, steps and parameters are those of the full model."""

    simplified: Simplified

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "full" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.full, name)

    def with_changes(self, changes: Mapping[str, Any]) -> Any:
        """Return it with other model parameters, in both models where both have them."""
        s = self.simplified
        known = {path: self._fitted(path, value) for path, value in changes.items() if has_path(s.model, path)}
        return _StandIn(replace_at(self.full, changes), s.replace(model=replace_at(s.model, known)))

    def _fitted(self, path: str, value: Any) -> Any:
        s = self.simplified
        ours = jax.tree.map(jnp.asarray, value_at(s.model, path))
        fits = s.transfer is None or tree.same_shapes(ours, value)
        return value if fits else s.transfer.coarsen(value)

    def custom_rollout(
        self,
        x0: Any,
        steps: int,
        *,
        start: Any,
        at: Any,
        limit: Any,
        segment: int | None,
        memory: int | None,
        forcing: Any,
    ) -> Any:
        """Return what `rollout` returns for the full model, from the simplified one."""
        s, every = self.simplified, self.simplified.every
        coarsen, refine = (s.transfer.coarsen, s.transfer.refine) if s.transfer is not None else (_same, _same)
        count = -(-steps // every)
        at = jnp.arange(steps + 1, dtype=jnp.int32) if at is None else jnp.asarray(at, jnp.int32)
        before = jnp.where((at < 0) | (at > steps), -1, at // every)
        wanted = before if every == 1 else jnp.concatenate([before, jnp.minimum(before + 1, count)])
        rows = rollout(
            s.model, coarsen(x0), count, start=jnp.asarray(start, jnp.int32) // every, at=wanted,
            limit=None if limit is None else -(-limit // every),
            segment=None if segment is None else -(-segment // every), memory=memory,
            forcing=None if forcing is None else jax.vmap(coarsen)(_summed(forcing, count, every)),
        )  # fmt: skip
        if every > 1:
            share = (at % every) / every

            def between(leaf: Any) -> Any:
                a, b = leaf[: at.shape[0]], leaf[at.shape[0] :]
                w = jnp.where(before < 0, 0, share).astype(leaf.dtype).reshape((-1,) + (1,) * (leaf.ndim - 1))
                return (1 - w) * a + w * b

            rows = jax.tree.map(between, rows)
        return jax.vmap(refine)(rows)


def _same(x: Any) -> Any:
    return x


def _summed(forcing: Any, count: int, every: int) -> Any:
    """Return the sums of increments over blocks of steps."""

    def blocks(q: Any) -> Any:
        missing = jnp.zeros((count * every - q.shape[0], *q.shape[1:]), q.dtype)
        return jnp.sum(jnp.concatenate([q, missing]).reshape((count, every, *q.shape[1:])), axis=1)

    return jax.tree.map(blocks, forcing)
