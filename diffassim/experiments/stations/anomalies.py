"""Departures from the mean cycle, in units of their spread and on a scale that suits their law."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from diffassim.experiments.stations.mean_cycle import MeanCycle

__all__ = ["SCALES", "Anomalies", "Scale"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale on which values are closer to a normal law.

    Args:
        name: none, or the square root.
    """

    name: str

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Return the values on the scale; what is below zero counts as zero where there is a root."""
        return np.sqrt(np.maximum(values, 0)) if self.name == "sqrt" else values

    def mean(self, center: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the mean of what is normal on the scale."""
        return np.maximum(center, 0) ** 2 + std**2 if self.name == "sqrt" else center

    def std(self, center: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return the standard deviation of what is normal on the scale."""
        return np.sqrt(4 * np.maximum(center, 0) ** 2 * std**2 + 2 * std**4) if self.name == "sqrt" else std

    def quantile(self, value: np.ndarray) -> np.ndarray:
        """Return what lies at a place on the scale."""
        return np.maximum(value, 0) ** 2 if self.name == "sqrt" else value


SCALES = {name: Scale(name) for name in ("none", "sqrt")}


@dataclasses.dataclass(frozen=True)
class Anomalies:
    """How values become standardized departures.

    Args:
        scales: one for each component.
        cycle: mean cycle on these scales.
        std: standard deviations of the departures, shape (component,).
    """

    scales: tuple[Scale, ...]
    cycle: MeanCycle
    std: np.ndarray

    @classmethod
    def fit(cls, times: pd.DatetimeIndex, values: np.ndarray, scales: tuple[Scale, ...]) -> Anomalies:
        """Fit mean cycle and spread.

        Args:
            times: of the training period.
            values: NaN where missing, shape (time, component).
            scales: one for each component.
        """
        scaled = np.stack([scale.forward(y) for scale, y in zip(scales, values.T, strict=True)], axis=1)
        cycle = MeanCycle.fit(times, scaled)
        known = np.isfinite(scaled)
        departures = np.where(known, scaled - cycle(times), 0.0)
        std = np.sqrt((departures**2).sum(0) / np.maximum(known.sum(0), 1))
        return cls(scales, cycle, np.where(std > 0, std, 1.0))

    def forward(self, times: pd.DatetimeIndex, values: np.ndarray) -> np.ndarray:
        """Return standardized departures, NaN where a value is missing."""
        scaled = np.stack([scale.forward(y) for scale, y in zip(self.scales, values.T, strict=True)], axis=1)
        return (scaled - self.cycle(times)) / self.std

    def means(self, times: pd.DatetimeIndex, departures: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return means of values whose standardized departures are normal.

        Args:
            times: of the values.
            departures: means of the departures, shape (time, component).
            std: their standard deviations, broadcasting with them.
        """
        center = self.cycle(times) + departures * self.std
        spread = np.broadcast_to(std * self.std, center.shape)
        parts = zip(self.scales, center.T, spread.T, strict=True)
        return np.stack([scale.mean(c, s) for scale, c, s in parts], axis=1)

    def stds(self, times: pd.DatetimeIndex, departures: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Return standard deviations of values whose standardized departures are normal; see `means`."""
        center = self.cycle(times) + departures * self.std
        spread = np.broadcast_to(std * self.std, center.shape)
        parts = zip(self.scales, center.T, spread.T, strict=True)
        return np.stack([scale.std(c, s) for scale, c, s in parts], axis=1)

    def quantiles(self, times: pd.DatetimeIndex, departures: np.ndarray) -> np.ndarray:
        """Return the values that have these departures, shape (time, component)."""
        center = self.cycle(times) + departures * self.std
        return np.stack([scale.quantile(c) for scale, c in zip(self.scales, center.T, strict=True)], axis=1)
