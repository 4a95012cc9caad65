"""4D ensemble-variational assimilation: ensemble trajectories in place of the model and its adjoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import real_state
from diffassim.core.errors import ShapeError, require_finite
from diffassim.core.pytree import Pytree
from diffassim.covariances.ensemble import Ensemble
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams, observed_rows, rows_by_stream
from diffassim.variational.costs.base import Cost
from diffassim.variational.costs.parameters import check_parameters, operator_control, with_operator_parameters
from diffassim.variational.costs.window import innovations

__all__ = ["FourDEnVar"]


class FourDEnVar(Cost, Pytree):
    r"""Cost of 4DEnVar in the weights v of an ensemble's trajectories.

    .. math::
        J(v) = \tfrac12 |v|^2 + \tfrac12 \sum_i |R_i^{-1/2}(y_i - H_i(x_b(t_i) + X_f(t_i) v))|^2

    with X_f(t) the members' departures from their mean at time t over \(\sqrt{N - 1}\); with a localization every
    member has a field of weights, the same at all times. Neither the model nor its adjoint is run: all trajectories
    are given (`from_model` makes them), and may come from any program. For a linear model and without localization it
    is strong-constraint 4D-Var with B the ensemble covariance; a localization does not move with the flow here, as it
    does there.

    Args:
        background: background state x_b at the window start, a pytree of arrays.
        members: ensemble at the window start, the state's pytree with a leading member axis.
        background_rows: background at the `observed_rows` of the streams, along the leading axis.
        member_rows: the ensemble there, axes (member, row, ...).
        observations: `Observations`, or a tuple of them (several streams).
        localization: covariance of unit variance on the trailing axes (`Gaussian(std=1.0, ...)`), or None.

    Raises:
        ShapeError: if rows and observation steps do not agree, or the members do not fit the state.
        DataError: if the background is not finite.

    Example:
        >>> import diffassim as da
        >>> model = da.models.FunctionModel(lambda x, t: 2 * x)
        >>> obs = da.Observations(jnp.array([[6.0]]), [1], error=da.covariances.Diagonal(std=2.0))
        >>> members = jnp.array([[0.0], [2.0]]) / jnp.sqrt(2)
        >>> cost = da.FourDEnVar.from_model(model, jnp.array([1.0]), members, obs)
        >>> da.minimize(cost).state.round(6).tolist()
        [2.0]

    Source: Liu, Xiao and Wang (2008); Desroziers, Camino and Berre (2014), section 2.
    """

    background: Any
    members: Any
    background_rows: Any
    member_rows: Any
    observations: Any
    localization: Any = None

    @classmethod
    def from_model(
        cls, model: Any, background: Any, members: Any, observations: Any, localization: Any = None, start: Any = 0
    ) -> FourDEnVar:
        """Run the model once for the background and once for each member, and return the cost.

        Args:
            model: forward model, `step(x, t) -> x`.
            background: background state at the window start.
            members: ensemble at the window start, leading member axis.
            observations: `Observations`, or a tuple of them; their steps must be known here.
            localization: see the class.
            start: number of the window's first step, passed to the model as t.
        """
        streams = as_streams(observations)
        at = observed_rows(streams)
        steps = int(at.max()) if at.size else 0

        def rows(x: Any) -> Any:
            return rollout(model, x, steps, start=start, at=at)

        whole = jax.jit(lambda x, ensemble: (rows(x), jax.vmap(rows)(ensemble)))
        members = jax.tree.map(jnp.asarray, members)
        background_rows, member_rows = whole(background, members)
        return cls(background, members, background_rows, member_rows, streams, localization)

    def __post_init__(self) -> None:
        require_finite("FourDEnVar: the background", self.background, "Fill or estimate missing state first.")
        background = real_state("FourDEnVar: the background", self.background)
        streams = as_streams(self.observations)
        self.covariance.check("FourDEnVar.members", background)
        for stream in streams:
            if stream.parameters:
                check_parameters("parameters", stream.operator, stream.parameters)
        count = observed_rows(streams).shape[0]
        size = jax.tree.leaves(self.members)[0].shape[0]
        for name, rows, shape in (
            ("background_rows", self.background_rows, (count,)),
            ("member_rows", self.member_rows, (size, count)),
        ):
            expected = jax.tree.map(lambda leaf, shape=shape: jax.ShapeDtypeStruct((*shape, *leaf.shape), leaf.dtype),
                                    background)  # fmt: skip
            if not tree.same_shapes(rows, expected):
                raise ShapeError(
                    f"FourDEnVar: {name} has shape {tree.describe_shapes(rows)}, expected "
                    f"{tree.describe_shapes(expected)}: one row for each of observed_rows(observations)"
                )
        self._set(background=background, observations=streams)

    @property
    def covariance(self) -> Ensemble:
        """The (localized) ensemble covariance at the window start."""
        return Ensemble(self.members, self.localization)

    def control(self) -> dict[str, Any]:
        """Return zero weights: a dict with 'state', and 'operators' where parameters of operators are sought."""
        operators = operator_control(self.observations, self.background)
        control = {"state": self.covariance.control_like(self.background)}
        return control if operators is None else {**control, "operators": operators}

    def streams(self) -> tuple[Any, ...]:
        """Return the observations, a tuple of streams."""
        return self.observations

    def with_streams(self, streams: tuple[Any, ...]) -> Self:
        """Return the cost with other observations."""
        return self.replace(observations=streams)

    def covariances(self) -> dict[str, Any]:
        """Return the ensemble covariance as that of 'state'."""
        return {"state": self.covariance}

    def controlled_observations(self, v: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the streams with the operators' parameters that belong to v."""
        return with_operator_parameters(self.observations, v.get("operators"))

    def state(self, v: Mapping[str, Any]) -> Any:
        """Return the state at the window start, x_b + X_f v."""
        return tree.add(self.background, self.covariance.sqrt(v["state"]))

    def rows(self, v: Mapping[str, Any]) -> Any:
        """Return the analysed states at the observed rows of all streams."""
        return tree.add(self.background_rows, Ensemble(self.member_rows, self.localization).sqrt(v["state"]))

    def predicted(self, v: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the observation equivalents H(x), one pytree for each stream, like its values."""
        streams = self.controlled_observations(v)
        return tuple(s.predict(rows) for s, rows in zip(streams, rows_by_stream(streams, self.rows(v)), strict=True))

    def residuals(self, v: Mapping[str, Any]) -> Any:
        """Return (v, whitened innovations): the pytree whose squared norm is 2 J."""
        return v, innovations(self.controlled_observations(v), self.rows(v))
