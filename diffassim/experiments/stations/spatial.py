"""Values at places without a station: kriging with correlations that predict left-out stations best."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

__all__ = ["Kriging", "learn_kriging"]

LEAST = 3  # stations
MOST = 250  # stations on which correlations are judged
MOST_TIMES = 400
# Correlations that are tried: nugget; length; share and length of shorter ones; lengths in largest distances.
NUGGETS = (0.0005, 0.003, 0.01, 0.03, 0.1, 0.2)
LENGTHS = (0.1, 0.2, 0.4, 1.0, 3.0, 10.0)
SHORTER = ((0.0, 1.0), (0.1, 0.01), (0.2, 0.03), (0.3, 0.06))
TOLERANCE = 0.03  # an error larger by this share weighs less by a factor e


@dataclasses.dataclass(frozen=True)
class Kriging:
    r"""Weights of the stations for each place, the same at all times, since filtered records have no gaps.

    .. math::
        \hat x = k^\top K^{-1} (x - F b) + f^\top b,\quad b = (F^\top K^{-1} F)^{-1} F^\top K^{-1} x,\quad
        K_{st} = e^{-d_{st} / \ell} + \gamma\, e^{-d_{st} / \ell'} + \nu\, \delta_{st}

    with functions F of the place: one, and those of longitude, latitude and elevation that help.

    Many correlations are averaged, each weighed by how well it predicts left-out stations: with few stations none of
    them is known well, and the single best one is often extreme.

    Args:
        weights: shape (place, station).
        std: of the errors, shape (place,).
        spread: root mean square of the stations' errors when each is left out.
        drift: names of the functions.
        length: mean length of the correlations, km.
    """

    weights: np.ndarray
    std: np.ndarray
    spread: float
    drift: tuple[str, ...]
    length: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return values at the places, shape (time, place), from those at the stations, (time, station)."""
        return values @ self.weights.T


def learn_kriging(
    values: np.ndarray, departures: np.ndarray, places: np.ndarray, targets: np.ndarray, distances: np.ndarray,
    to_targets: np.ndarray,
) -> Kriging:  # fmt: skip
    r"""Weigh correlations and choose functions of the place by the stations that are left out; return the weights.

    Correlations weigh \(e^{-(E / E_{best} - 1) / .03}\) with E the mean absolute error of departures from the
    stations' own means, which a station in an unusual place does not decide; the functions of the place are chosen by
    that of the values.

    Args:
        values: at the stations, without gaps, shape (time, station).
        departures: of the values from the stations' mean cycles, likewise.
        places: longitude, latitude, elevation of the stations, shape (station, 3).
        targets: of the places, shape (place, 3).
        distances: of the stations, shape (station, station), km.
        to_targets: of places and stations, shape (place, station).

    Fewer than three stations tell nothing of correlations: they weigh by inverse squared distance, and the standard
    deviation is that of the departures.

    Source: Dubrule (1983) for errors without a station in closed form; Bachoc (2013) for parameters chosen by them.
    """
    if len(places) < LEAST:
        near = 1 / np.maximum(to_targets, 1e-3) ** 2
        spread = float(np.sqrt(np.mean(departures**2)))
        return Kriging(near / near.sum(1, keepdims=True), np.full(len(targets), spread), spread, (), np.inf)
    chosen = np.linspace(0, len(places) - 1, min(MOST, len(places))).astype(int)
    times = np.linspace(0, len(values) - 1, min(MOST_TIMES, len(values))).astype(int)
    D, a, x = distances[np.ix_(chosen, chosen)], departures[np.ix_(times, chosen)], values[np.ix_(times, chosen)]
    tried, shares = _weighed(D, a)
    best = tried[int(np.argmax(shares))]
    drifts = {names: _drift(places, places, names) for names in _candidates(places, len(chosen))}
    errors = {
        names: float(np.mean(np.abs(_left_out(_correlations(D, best), F[chosen], x)[0]))) for names, F in drifts.items()
    }
    names = min(errors, key=lambda each: (round(errors[each] / errors[()], 2), len(each)))  # one per cent must be won
    F, f = drifts[names], _drift(places, targets, names)
    weights, variance = np.zeros(to_targets.shape), np.zeros(len(targets))
    e = np.zeros(x.shape)
    for parameters, share in zip(tried, shares, strict=True):
        if share > 0:
            missed, scaled = _left_out(_correlations(D, parameters), F[chosen], x)
            w, left = _universal(
                _correlations(distances, parameters), _correlations(to_targets, parameters, False), F, f
            )
            total = 1 + parameters[2] + parameters[0]
            weights += share * w
            variance += share * np.mean(scaled**2) * np.maximum(total + left, 0)
            e += share * missed
    length = float(shares @ np.array([each[1] for each in tried]))
    return Kriging(weights, np.sqrt(variance), float(np.sqrt(np.mean(e**2))), names, length)


def _weighed(D: np.ndarray, departures: np.ndarray) -> tuple[list[tuple[float, ...]], np.ndarray]:
    """Return parameters that are tried and their shares; those below a hundredth of the best are left out."""
    top = max(float(D.max()), 1e-6)
    one = np.ones((len(D), 1))
    tried: list[tuple[float, ...]] = [
        (nugget, length * top, share, short * top)
        for length, nugget, (share, short) in itertools.product(LENGTHS, NUGGETS, SHORTER)
    ]
    error = np.array([np.mean(np.abs(_left_out(_correlations(D, each), one, departures)[0])) for each in tried])
    shares = np.exp(-(error / error.min() - 1) / TOLERANCE)
    shares = np.where(shares > 1e-2, shares, 0.0)
    return tried, shares / shares.sum()


def _universal(K: np.ndarray, k: np.ndarray, F: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of universal kriging, and what they change of the variance."""
    Ki = np.linalg.inv(K)
    simple = k @ Ki
    rest = f - simple @ F
    along = np.linalg.solve(F.T @ Ki @ F, rest.T).T
    return simple + along @ F.T @ Ki, np.sum(along * rest, axis=1) - np.sum(simple * k, axis=1)


def _correlations(distance: np.ndarray, parameters: tuple[float, ...], nugget: bool = True) -> np.ndarray:
    nu, length, share, short = parameters
    K = np.exp(-distance / length) + share * np.exp(-distance / short)
    return K + nu * np.eye(len(K)) if nugget else K


def _left_out(K: np.ndarray, F: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each station's value differs by from what the others give, and that in units of its spread."""
    Ki = np.linalg.inv(K)
    KF = Ki @ F
    Q = Ki - KF @ np.linalg.solve(F.T @ KF, KF.T)
    d = np.maximum(np.diag(Q), 1e-12)
    return (x @ Q) / d, (x @ Q) / np.sqrt(d)


def _candidates(places: np.ndarray, count: int) -> list[tuple[str, ...]]:
    known = [name for name, column in (("longitude", 0), ("latitude", 1), ("elevation", 2))
             if np.isfinite(places[:, column]).all() and np.ptp(places[:, column]) > 0]  # fmt: skip
    most = min(len(known), max(count // 6 - 1, 0))
    return [names for size in range(most + 1) for names in itertools.combinations(known, size)]


def _drift(stations: np.ndarray, places: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    columns = [{"longitude": 0, "latitude": 1, "elevation": 2}[name] for name in names]
    center, width = stations[:, columns].mean(0), stations[:, columns].std(0)
    return np.concatenate([np.ones((len(places), 1)), (places[:, columns] - center) / width], axis=1)
