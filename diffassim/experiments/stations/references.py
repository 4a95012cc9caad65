"""What forecasts and analyses at stations are compared with: simple methods that see the same observations."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["FORECASTS", "ForecastReferences", "last_known", "spatial_references"]

FORECASTS = ("climatology", "persistence", "damped persistence", "regression on four lags")
LAGS = 4
RIDGE = 1.0


def last_known(values: np.ndarray) -> np.ndarray:
    """Return the last value known at each time, zero before the first, shape (time, component)."""
    rows = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    last = np.maximum.accumulate(rows, axis=0)
    filled = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, filled, 0.0)


@dataclasses.dataclass(frozen=True)
class ForecastReferences:
    """Damping of every component, and regressions on the last four values of all stations or those near.

    Args:
        damping: shape (lead, component).
        coefficients: of lags of the neighbors' values of the same variable, shape (lead, component, regressor).
        std: of the errors of climatology, damped persistence and regression, shape (3, lead, component).
        near: for each station its neighbors.
    """

    damping: np.ndarray
    coefficients: np.ndarray
    std: np.ndarray
    near: np.ndarray

    @classmethod
    def fit(cls, departures: np.ndarray, near: np.ndarray, leads: tuple[int, ...]) -> ForecastReferences:
        """Fit them to departures from the mean cycle, NaN where missing, shape (time, component)."""
        count = departures.shape[1]
        variables = count // len(near)
        known = last_known(departures)
        damping = np.zeros((len(leads), count))
        coefficients = np.zeros((len(leads), count, LAGS * near.shape[1]))
        std = np.zeros((3, len(leads), count))
        for i in range(count):
            X = _lags(known, near[i // variables] * variables + i % variables)
            for k, lead in enumerate(leads):
                y, x = departures[lead:, i], known[: len(known) - lead, i]
                seen = np.isfinite(y)
                damping[k, i] = (x[seen] @ y[seen]) / max(float(x[seen] @ x[seen]), 1e-12)
                A = X[: len(known) - lead][seen]
                G = A.T @ A + RIDGE * np.eye(A.shape[1])
                coefficients[k, i] = np.linalg.solve(G, A.T @ y[seen])
                errors = y[seen], y[seen] - damping[k, i] * x[seen], y[seen] - A @ coefficients[k, i]
                std[:, k, i] = [float(np.sqrt(np.mean(e**2))) if e.size else 0.0 for e in errors]
        return cls(damping, coefficients, std, near)

    def __call__(self, departures: np.ndarray) -> np.ndarray:
        """Return forecasts of the departures by time of issue, shape (time, method, lead, component).

        Climatology, damped persistence and the regression; persistence is of values, not of departures.
        """
        leads, count = self.damping.shape
        variables = count // len(self.near)
        known = last_known(departures)
        out = np.zeros((len(known), 3, leads, count))
        out[:, 1] = known[:, None] * self.damping
        for i in range(count):
            out[:, 2, :, i] = (
                _lags(known, self.near[i // variables] * variables + i % variables) @ self.coefficients[:, i].T
            )
        return out


def _lags(known: np.ndarray, columns: np.ndarray) -> np.ndarray:
    x = known[:, columns]
    return np.concatenate(
        [x if k == 0 else np.concatenate([np.zeros_like(x[:k]), x[:-k]]) for k in range(LAGS)], axis=1
    )


def spatial_references(values: np.ndarray, distances: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return what the values observed at other stations at the same time give for some places.

    Args:
        values: at the other stations, NaN where missing, shape (time, station).
        distances: of places and stations, shape (place, station), or None where they are not known.

    Returns:
        By method, shape (time, place); NaN where nothing was observed.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    places = 1 if distances is None else len(distances)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.repeat((filled.sum(1) / known.sum(1))[:, None], places, axis=1)
        found = {"mean of the others": mean}
        if distances is not None:
            weights = 1 / np.maximum(distances, 1e-3) ** 2
            found["nearest station"] = _nearest(values, distances)
            found["inverse distance"] = (filled @ weights.T) / (known @ weights.T)
    return found


def _nearest(values: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return at each time the value of the nearest station that has one, shape (time, place)."""
    found = np.full((len(values), len(distances)), np.nan)
    for stations in np.argsort(distances, axis=1, kind="stable").T:
        missing = np.isnan(found)
        if not missing.any():
            break
        found = np.where(missing, values[:, stations], found)
    return found
