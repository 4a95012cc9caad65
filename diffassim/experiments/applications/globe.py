"""Twin experiment on the globe: winds and height of a shallow atmosphere from stations and a satellite."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field

from diffassim.core.errors import ConfigurationError
from diffassim.covariances import ZonallyHomogeneous
from diffassim.experiments.applications.globe_methods import (
    BATCH,
    ENSEMBLES,
    VARIATIONAL,
    Day,
    climatology_day,
    ensemble_day,
    free_day,
    global_filter,
    interpolation_day,
    local_filter,
    truth_rows,
    variational_day,
)
from diffassim.experiments.applications.globe_output import LEADS, day_dataset
from diffassim.experiments.applications.globe_scores import (
    analysis_errors,
    coverage,
    globe_scores,
    globe_table,
    interval_name,
    spreads,
)
from diffassim.experiments.applications.globe_setting import (
    DAY,
    FIELDS,
    MEAN_STATES,
    WINDOW,
    GlobeSetting,
    axes_of,
    climate_runs,
    draw_network,
    forced_model,
    observe_day,
)
from diffassim.experiments.applications.globe_start import reanalysis_file, reanalysis_state, require_reanalysis
from diffassim.experiments.applications.globe_tuning import (
    CANDIDATES,
    Training,
    learn_candidate,
    pack,
    plain,
    state_of,
    unpack,
)
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment
from diffassim.experiments.framework.twin import on_attractor
from diffassim.models.spherical_shallow_water import ShallowWaterState
from diffassim.plotting.globe import globe_overview

__all__ = ["Globe", "GlobeConfiguration"]

POINTS = 32 * 64  # of the grid
OWN = ("4D-Var", "LETKF")  # the others are there for comparison, and may lose the truth
SCORED = 1  # number of the truth that is scored
FORGETFUL = ("climatology", "optimal interpolation")  # methods that hand nothing on from day to day


class GlobeConfiguration(Configuration):
    """Settings of the twin experiment.

    Args:
        start: state that the truth starts from: 'era5', winds and height at 500 hPa of 2 January 1959 in the package
            neuralgcm; 'jets', two balanced jets with perturbations; or 'auto', the first if it is installed.
        adaptation: days that the state of ERA5 runs in the model before it is observed, in which it takes on the
            model's climate; with 0 the weather of that day is analysed by methods that know the model's climate.
        days: that are assimilated and scored.
        burn_in: days at the start that the scores leave out.
        training_days: of the independent run on which everything is chosen.
        members: of the ensembles.
        stations: number of stations.
        points: that the satellite observes in an hour.
        wind_error: standard deviation of the stations' errors, m/s.
        height_error: the same, m.
        satellite_error: standard deviation of the satellite's errors, m.
        missing: part of the stations' values that is missing.
        clouds: part of the satellite's values that is missing.
        outage: part of the windows without the satellite.
    """

    start: Literal["auto", "era5", "jets"] = "auto"
    adaptation: Annotated[int, Field(ge=0, le=100)] = 20
    days: Annotated[int, Field(ge=1, le=60)] = 10
    burn_in: Annotated[int, Field(ge=0)] = 3
    training_days: Annotated[int, Field(ge=3, le=30)] = 8
    members: Annotated[int, Field(ge=3, le=200)] = 24
    stations: Annotated[int, Field(ge=1, le=2000)] = 80
    points: Annotated[int, Field(ge=1, le=200)] = 12
    wind_error: Annotated[float, Field(gt=0)] = 2.0
    height_error: Annotated[float, Field(gt=0)] = 10.0
    satellite_error: Annotated[float, Field(gt=0)] = 20.0
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clouds: Annotated[float, Field(ge=0, lt=1)] = 0.3
    outage: Annotated[float, Field(ge=0, le=1)] = 0.1

    @property
    def setting(self) -> GlobeSetting:
        """What the truth is made with."""
        same = ("members", "stations", "points", "wind_error", "height_error", "satellite_error", "missing", "clouds")
        return GlobeSetting(**{name: getattr(self, name) for name in (*same, "outage", "seed")})


class Globe(StagedExperiment):
    """Assimilate winds and heights of a shallow atmosphere on the sphere, and say how sure the analyses are.

    The atmosphere is one layer of fluid with a jet on each hemisphere that breaks up into eddies, at a truncation of 21
    (the shallow-water core of dinosaur, relaxed to jets and to land that is warmer than the sea). Stations, dense where
    there is land, report winds and height every six hours; a satellite measures the height below it, every hour at
    other places. Values are missing, and so is the satellite at times. Every six hours 4D-Var and a local ensemble
    filter analyse the window; beside them stand the climate's mean, a run without observations, optimal interpolation,
    3D-Var and an ensemble filter without localization, with the same observations.

    Radius and inflation of the filters, the background covariance (from the spread of the local filter's forecasts) and
    its size are learned from another truth with other observations, which is not scored.
    """

    name = "globe"
    summary = "4D-Var and a local ensemble filter on the sphere: winds and height from stations and a satellite."
    configuration = GlobeConfiguration

    def memory(self, config: GlobeConfiguration) -> dict[str, float]:
        """Return the bytes of what grows with members and observations."""
        values = 3 * config.stations + WINDOW * config.points
        fields = 8 * len(FIELDS) * POINTS * config.members
        return {
            f"local analyses of {values} values with {config.members} members": 3
            * 8.0
            * BATCH
            * config.members
            * values,
            f"climate of {config.members} runs": 3.0 * MEAN_STATES * fields,
        }

    def stages(self, config: GlobeConfiguration) -> tuple[Stage, ...]:
        """Return the stages."""
        return (
            Stage("running the climate", 1, _climate),
            Stage("tuning on an independent run", len(CANDIDATES), _tune),
            Stage("assimilating a day", config.days, _assimilate),
        )

    def check(self, config: GlobeConfiguration) -> str:
        """Return what was understood of settings and data."""
        self._require(config)
        origin = reanalysis_file() if config.start != "jets" else None
        return "\n".join([
            super().check(config),
            f"The truth starts from {'two jets with perturbations' if origin is None else origin}; "
            f"{config.days * DAY // WINDOW} windows of {WINDOW} h, of which the first "
            f"{config.burn_in * DAY // WINDOW} are not scored",
        ])  # fmt: skip

    def start(self, config: GlobeConfiguration) -> dict[str, Any]:
        """Make sure that everything is there."""
        self._require(config)
        return {}

    def finish(self, config: GlobeConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors, table and figure."""
        scores = globe_scores(dataset, config.burn_in)
        own = scores["method"].isin(OWN) & (scores["metric"] == "rmse") & (scores["lead"] == 0)
        counted = int(scores.loc[own, "n"].min())
        shares = np.mean([coverage(dataset, name) for name in FIELDS], axis=0)
        by_filter = {str(method): shares[:, i] for i, method in enumerate(dataset["filter"].values)}
        drawn = globe_overview(dataset, analysis_errors(dataset), spreads(dataset), by_filter, config.burn_in)
        return Results(scores, {"globe": drawn}, globe_table(dataset, scores), counted)

    def _require(self, config: GlobeConfiguration) -> None:
        if importlib.util.find_spec("dinosaur") is None:
            raise ConfigurationError('globe: the model needs the library dinosaur: pip install "diffassim[sphere]"')
        if config.burn_in >= config.days:
            raise ConfigurationError(
                f"globe: burn_in={config.burn_in} leaves nothing of {config.days} days to score; choose more days"
            )
        if config.start == "era5":
            require_reanalysis()


def _climate(config: GlobeConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Run the climate; its runs are two truths and the members, and their states the statistics."""
    setting = config.setting
    model = forced_model(setting)
    runs = climate_runs(setting, model, config.members + 2)
    _require_finite(runs)
    states = jax.tree.map(lambda leaf: leaf[2:].reshape(-1, *leaf.shape[2:]), runs)
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), states)
    B = ZonallyHomogeneous.from_samples(jax.tree.map(lambda leaf, m: leaf - m[None], states, mean))

    def of(run: Any, state: int) -> dict[str, Any]:
        return plain(jax.tree.map(lambda leaf: leaf[run, state], runs))

    truth = of(1, -1)
    path = None if config.start == "jets" else reanalysis_file()
    if path is not None:
        weather = reanalysis_state(path, setting.truncation)
        truth = plain(on_attractor(model, weather, DAY * config.adaptation))
    members = slice(2, None)
    return {
        "mean": plain(mean), "climate": pack(B), "reanalysis": np.asarray(path is not None),
        "training": {"truth": of(0, 0), "ensemble": of(members, 0)},
        "scored": {"truth": truth, "ensemble": of(members, -1)},
        "tried": {}, "chosen": {}, "intervals": {}, "covariance": {},
    }, xr.Dataset()  # fmt: skip


def _tune(config: GlobeConfiguration, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Try one value of one setting on the run for training."""
    setting, independent = config.setting, carry["training"]
    training = Training(
        setting, forced_model(setting), draw_network(setting), config.training_days, state_of(independent["truth"]),
        state_of(independent["ensemble"]), state_of(carry["mean"]), unpack(carry["climate"]),
    )  # fmt: skip
    return carry | learn_candidate(training, carry, index), xr.Dataset()


def _assimilate(config: GlobeConfiguration, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Assimilate one day by all methods, forecast from its end, and write it down."""
    setting = config.setting
    model, network, scored = forced_model(setting), draw_network(setting), carry["scored"]
    rows = truth_rows(model, state_of(scored["truth"]), DAY + LEADS[-1])
    observations = observe_day(setting, network, rows, SCORED, index)
    days = _all_methods(setting, model, carry, observations, index)
    dataset = day_dataset(setting, network, model, days, rows, observations, index)
    facts = {f"chosen_{name.replace(' ', '_')}": float(value) for name, value in carry["chosen"].items()}
    for method in ENSEMBLES:
        widths = np.broadcast_to(carry["intervals"].get(method, np.nan), (len(FIELDS),))
        facts |= {interval_name(method, name): float(width) for name, width in zip(FIELDS, widths, strict=True)}
    facts |= {"from_reanalysis": float(carry["reanalysis"]), "members": float(config.members)}
    dataset = dataset.assign({name: ("time", np.full(dataset.sizes["time"], value)) for name, value in facts.items()})
    beliefs = {method: plain(day.belief) for method, day in days.items() if method not in FORGETFUL}
    truth = plain(jax.tree.map(lambda leaf: leaf[DAY], rows))
    return carry | {"scored": {"truth": truth, "ensemble": scored["ensemble"], **beliefs}}, dataset


def _all_methods(
    setting: GlobeSetting, model: Any, carry: dict[str, Any], observations: Any, index: int
) -> dict[str, Day]:
    """Return the day of every method."""
    scored, chosen = carry["scored"], {name: float(value) for name, value in carry["chosen"].items()}
    climate, learned, mean = unpack(carry["climate"]), unpack(carry["covariance"]), state_of(carry["mean"])
    first = {name: np.mean(field, axis=0) for name, field in scored["ensemble"].items()}

    def belief(method: str, otherwise: Any) -> ShallowWaterState:
        return state_of(scored.get(method, otherwise))

    days = {
        "climatology": climatology_day(mean),
        "free run": free_day(model, belief("free run", first)),
        "optimal interpolation": interpolation_day(mean, climate, observations),
    }
    for method, form in VARIATIONAL.items():
        B = (chosen[method] if index else 1.0) * (learned if index else climate)  # the first background is the climate
        days[method] = variational_day(form, B, model, belief(method, first), observations)
    filters = (
        global_filter(chosen["global alpha"]), local_filter(axes_of(setting)[0], chosen["radius"], chosen["alpha"])
    )  # fmt: skip
    for method, one in zip(ENSEMBLES, filters, strict=True):
        days[method], _ = ensemble_day(one, model, belief(method, scored["ensemble"]), observations)
    return days


def _require_finite(runs: Any) -> None:
    if not all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(runs))):
        raise ConfigurationError("globe: a run of the climate is not finite; choose another seed")
