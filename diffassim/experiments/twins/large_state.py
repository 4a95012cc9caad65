"""Twin experiment with a state that is too large for one process: a local filter on a long Lorenz-96 ring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core.errors import ConfigurationError
from diffassim.core.finite_parts import require_finite_parts
from diffassim.core.sharding import device_mesh, gathered, sharding_for
from diffassim.cycling import cycle
from diffassim.ensemble import LETKF, GaspariCohn
from diffassim.experiments.framework.base import Experiment, Results, score_rows
from diffassim.experiments.framework.twin import Draw, observe, random_stream, states_at
from diffassim.experiments.twins.lorenz96_setting import Lorenz96Setting
from diffassim.io.fields import require_zarr
from diffassim.io.parts import read_parts
from diffassim.plotting.error_and_spread import error_and_spread

__all__ = ["LargeState", "LargeStateConfiguration"]

CYCLES_PER_CHUNK = 5


class LargeStateConfiguration(Lorenz96Setting):
    """Settings; a cycle is one analysis. Times are in model steps.

    Args:
        members: number of members.
        inflation: factor of the posterior anomalies.
        radius: of the taper, in grid points.
        members_from: zarr store with the members to start from, such as fields.zarr of another run; it is read in
            parts. The truth starts from there as well.
    """

    n: Annotated[int, Field(ge=40)] = 100_000
    members: Annotated[int, Field(ge=2)] = 16
    inflation: Annotated[float, Field(gt=0)] = 1.05
    radius: Annotated[float, Field(gt=0)] = 4.0
    cycles: Annotated[int, Field(ge=1)] = 20
    discarded_cycles: Annotated[int, Field(ge=0)] = 10
    members_from: Path | None = None

    @model_validator(mode="after")
    def _has_zarr(self) -> Self:
        try:
            require_zarr("fields.zarr")
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return self


class LargeState(Experiment):
    """Truth run, synthetic observations, cycled LETKF; every process holds some members, and analyses some places.

    Truth and observations are whole on every process; the ensemble, which is larger by the number of members, never is:
    it is made, forecast, analysed, kept in checkpoints and written to fields.zarr in parts. The output in analysis.nc
    is errors and spreads only.
    """

    name = "large-state"
    summary = "A local filter (LETKF) on a Lorenz-96 ring of any length, in parts on several processes."
    configuration = LargeStateConfiguration

    def chunks(self, config: LargeStateConfiguration) -> int:
        """Return the number of chunks of a few analyses."""
        return -(-config.cycles // CYCLES_PER_CHUNK)

    def axes(self, config: LargeStateConfiguration) -> dict[str, int]:
        """Return the members' axis."""
        return {"ensemble": 0}

    def memory(self, config: LargeStateConfiguration) -> dict[str, float]:
        """Return what the ensemble of a process needs, before and after an analysis with what it is computed from."""
        return {"the ensemble (members x n)": config.bytes_of(4.0 * config.members * config.n / len(jax.devices()))}

    def start(self, config: LargeStateConfiguration) -> dict[str, Any]:
        """Bring the truth onto the attractor; members start around it, or come from a store."""
        if config.members_from is not None:
            return self._from_store(config, config.members_from)
        truth, center = config.starts()
        mesh = device_mesh()
        sharding = sharding_for((config.members, config.n), mesh, 0, name="ensemble")
        drawn = jax.jit(_drawn, static_argnums=(2, 3), out_shardings=sharding if mesh.size > 1 else None)
        key = random_stream(config.seed, Draw.BACKGROUND)
        ensemble = drawn(key, np.asarray(center), config.members, config.observation_std)
        return {"truth": np.asarray(truth), "ensemble": ensemble}

    def _from_store(self, config: LargeStateConfiguration, path: Path) -> dict[str, Any]:
        mesh = device_mesh()
        ensemble = read_parts(path, "ensemble", mesh if mesh.size > 1 else None)
        truth = read_parts(path, "truth")
        if ensemble.shape != (config.members, config.n) or ensemble.dtype != config.dtype:
            raise ConfigurationError(
                f"members_from: {path} holds {ensemble.shape[0]} members of {ensemble.shape[1]} numbers "
                f"({ensemble.dtype}), but the settings say members = {config.members}, n = {config.n} ({config.dtype})"
            )
        return {"truth": truth, "ensemble": ensemble}

    def advance(
        self, config: LargeStateConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the observation times of one chunk."""
        first = index * CYCLES_PER_CHUNK
        cycles = min(CYCLES_PER_CHUNK, config.cycles - first)
        interval = config.observation_interval
        steps = interval * np.arange(1, cycles + 1)
        truth = states_at(config.truth_model, jnp.asarray(carry["truth"]), steps)
        key = random_stream(config.seed, Draw.OBSERVATIONS, index)
        observations = observe(key, truth, steps, config.observation_std, fraction=config.observed_fraction)
        method = LETKF(config.inflation, localization=GaspariCohn(config.radius))
        ensemble, history = cycle(
            method, config.model, jnp.asarray(carry["ensemble"]), observations,
            key=random_stream(config.seed, Draw.ANALYSIS), start=first * interval,
        )  # fmt: skip
        require_finite_parts(f"part {index + 1}: ", {"ensemble": ensemble})
        numbers = gathered(_series(history.background, history.analysis, truth))
        dataset = xr.Dataset(
            {name: ("time", np.asarray(values), {"units": "1"}) for name, values in numbers.items()},
            {"time": config.dt * interval * (first + 1 + np.arange(cycles))},
        )
        return {"truth": np.asarray(truth[-1]), "ensemble": ensemble}, dataset

    def fields(self, config: LargeStateConfiguration, carry: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Return the last members and the truth."""
        return {"ensemble": (("member", "site"), carry["ensemble"]), "truth": (("site",), carry["truth"])}

    def finish(self, config: LargeStateConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors and spreads, and their course."""
        counted = dataset.isel(time=slice(config.discarded_cycles, None))
        count = counted.sizes["time"] * config.n
        rows = [
            (moment, "x", 0.0, what, float(counted[f"{moment}_{what}"].mean()), count)
            for moment in ("background", "analysis")
            for what in ("rmse", "spread")
        ]
        lines = [f"LETKF, {config.members} members of {config.n} numbers, means over {counted.sizes['time']} analyses"]
        names = {"rmse": "error of the", "spread": "spread of the"}
        lines += [f"  {names[what]} {moment:<12} {value:8.4f}" for moment, _, _, what, value, _ in rows]
        figures = {"errors": error_and_spread(dataset, config.observation_std)}
        return Results(score_rows(rows), figures, "\n".join(lines), counted.sizes["time"])


def _drawn(key: Any, center: Any, members: int, std: float) -> Any:
    return center[None] + std * jax.random.normal(key, (members, *center.shape), center.dtype)


@jax.jit
def _series(background: Any, analysis: Any, truth: Any) -> dict[str, Any]:
    found = {}
    for name, moments in (("background", background), ("analysis", analysis)):
        found[f"{name}_rmse"] = jnp.sqrt(jnp.mean(jnp.square(moments.mean - truth), axis=1))
        found[f"{name}_spread"] = jnp.sqrt(jnp.mean(jnp.square(moments.spread), axis=1))
    return found
