"""Monthly sea surface temperature of the tropics, from a few points."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import xarray as xr
from pydantic import Field, field_validator

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.applications.field_choice import Training, choose_settings, interval_factors
from diffassim.experiments.applications.field_model import FieldModel, FieldSettings
from diffassim.experiments.applications.field_record import FieldRecord
from diffassim.experiments.applications.field_references import choose_length, damping
from diffassim.experiments.applications.field_scores import score_fields, score_table
from diffassim.experiments.applications.field_verification import Learned, verify
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment, quantity
from diffassim.io.packaged import packaged_file
from diffassim.plotting.fields import field_overview

__all__ = ["SeaSurface", "SeaSurfaceConfiguration"]

FILE = "iris_sample_data/sample_data/ostia_monthly.nc"
LEAST = 24  # months from which anything is learned
TRIED = 2  # networks of points, in the choice of the settings


class SeaSurfaceConfiguration(Configuration):
    """Settings.

    Args:
        learn: number of months, from the first on, that everything is learned from; the others verify.
        points: number of points that are observed, drawn at random from the cells of the sea; they stay in place.
        draws: number of such networks, over which scores are averaged.
        leads: of the forecasts, months.
        noise: standard deviation of the observation errors that are added, K.
    """

    learn: Annotated[int, Field(ge=LEAST)] = 36
    points: Annotated[int, Field(ge=1, le=500)] = 40
    draws: Annotated[int, Field(ge=1, le=100)] = 10
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=6)], ...], Field(min_length=1)] = (1, 3, 6)
    noise: Annotated[float, quantity("K"), Field(ge=0, le=5)] = 0.0

    @field_validator("leads")
    @classmethod
    def _increases(cls, leads: tuple[int, ...]) -> tuple[int, ...]:
        if list(leads) != sorted(set(leads)):
            raise ValueError("leads must increase")
        return leads


class SeaSurface(StagedExperiment):
    """Analyses and forecasts of monthly sea surface temperature along the equator, from some points.

    The mean cycle, patterns with a linear stochastic evolution of their amplitudes, and the law of the remainder are
    learned from the first months; how, is chosen on parts of these that the model has not seen. A Kalman filter
    assimilates what the points observe month by month. The later months only verify.
    """

    name = "sea-surface"
    summary = "Monthly sea surface temperature of the tropics from forty points: analyses, forecasts, error maps."
    configuration = SeaSurfaceConfiguration

    def record(self, config: Any) -> FieldRecord:
        """Return the record.

        Raises:
            ConfigurationError: if the package with the data is not installed.
        """
        path = packaged_file("iris-sample-data", FILE, "pip install iris-sample-data")
        with xr.open_dataset(path) as dataset:
            return FieldRecord.from_array(f"{self.name}: {FILE}", dataset["surface_temperature"].load())

    def stages(self, config: Any) -> tuple[Stage, ...]:
        """Return the stages."""
        return (
            Stage("choosing and learning the model", 1, self._learn),
            Stage("assimilating and forecasting", 1, self._verify),
        )

    def check(self, config: Any) -> str:
        """Return what was understood of settings and data."""
        record = self._checked(config)
        times, last = record.times, record.times[config.learn - 1]
        return "\n".join([
            super().check(config),
            f"Learns from {times[0]:%Y-%m} to {last:%Y-%m}, verifies from {times[config.learn]:%Y-%m} to "
            f"{times[-1]:%Y-%m}; {record.values.shape[1]} cells of the sea on a grid of {record.wet.shape[0]} x "
            f"{record.wet.shape[1]}, {record.values.min():.1f} to {record.values.max():.1f} K",
        ])  # fmt: skip

    def start(self, config: Any) -> dict[str, Any]:
        """Make sure that the record can be used."""
        self._checked(config)
        return {}

    def finish(self, config: Any, dataset: xr.Dataset) -> Results:
        """Return the scores, the table and the figure."""
        scores = score_fields(dataset)
        table = score_table(dataset, scores)
        return Results(scores, {"fields": field_overview(dataset, scores)}, table, int(scores["n"].min()))

    def _checked(self, config: Any) -> FieldRecord:
        record = self.record(config)
        months, cells = record.values.shape
        least = max(config.leads) + 1
        if months - config.learn < least:
            raise ConfigurationError(
                f"{self.name}: learn={config.learn} leaves {months - config.learn} of {months} months to verify; "
                f"at least {least} are needed with these leads"
            )
        if config.points > cells:
            raise ConfigurationError(f"{self.name}: points={config.points}, but the sea has {cells} cells")
        return record

    def _learn(self, config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
        record = self._checked(config)
        known = record._replace(times=record.times[: config.learn], values=record.values[: config.learn])
        points = draw_points(config.seed, 1, TRIED, config.points, record.values.shape[1])
        training = Training(known, points, config.leads, config.noise)
        settings, _tried = choose_settings(training, FieldSettings())
        factors = interval_factors(training, settings)
        return {
            "settings": {key: np.asarray(value) for key, value in settings._asdict().items()},
            "factors": {f"{method} {lead}": np.asarray(factor) for (method, lead), factor in factors.items()},
            "damping": np.array([damping(training, settings, lead) for lead in config.leads]),
            "length": np.asarray(choose_length(training, settings)),
        }, xr.Dataset()

    def _verify(self, config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
        record = self._checked(config)
        settings = FieldSettings(**{key: value.item() for key, value in carry["settings"].items()})
        rows = np.arange(config.learn)
        learned = Learned(
            FieldModel.learn(settings, record.times, record.values, rows, record.places),
            {key: float(factor) for key, factor in carry["factors"].items()},
            np.asarray(carry["damping"]), float(carry["length"]),
        )  # fmt: skip
        points = draw_points(config.seed, 2, config.draws, config.points, record.values.shape[1])
        return {}, verify(record, learned, points, config)


def draw_points(seed: int, purpose: int, draws: int, points: int, cells: int) -> np.ndarray:
    """Return indices of random points, shape (draw, point); other purposes draw other points."""
    generators = (np.random.default_rng([seed, purpose, draw]) for draw in range(draws))
    return np.stack([generator.choice(cells, points, replace=False) for generator in generators])
