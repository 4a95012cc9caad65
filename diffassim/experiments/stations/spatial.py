"""Values at places without a station: kriging with correlations that predict left-out stations best."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree

from diffassim.experiments.stations.record import great_circle
from diffassim.experiments.stations.regions import divide, unit_vectors

__all__ = ["Kriging", "Neighborhood", "learn_kriging"]

LEAST = 3  # stations
MOST = 250  # stations on which correlations are judged
MOST_TIMES = 400
LARGEST = 500  # stations of which a place takes all; of more it takes some: those of a region, and around it
OWN, AROUND = 100, 150
JUDGED = 3  # regions by which the correlations of a large network are judged
# Correlations that are tried: nugget; length; share and length of shorter ones; lengths in largest distances.
NUGGETS = (0.0005, 0.003, 0.01, 0.03, 0.1, 0.2)
LENGTHS = (0.1, 0.2, 0.4, 1.0, 3.0, 10.0)
SHORTER = ((0.0, 1.0), (0.1, 0.01), (0.2, 0.03), (0.3, 0.06))
TOLERANCE = 0.03  # an error larger by this share weighs less by a factor e


class Neighborhood(NamedTuple):
    """Indices of places and of the stations that they take, and weights, shape (place, station)."""

    places: np.ndarray
    stations: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Kriging:
    r"""Weights of the stations for each place, the same at all times, since filtered records have no gaps.

    .. math::
        \hat x = k^\top K^{-1} (x - F b) + f^\top b,\quad b = (F^\top K^{-1} F)^{-1} F^\top K^{-1} x,\quad
        K_{st} = e^{-d_{st} / \ell} + \gamma\, e^{-d_{st} / \ell'} + \nu\, \delta_{st}

    with functions F of the place: one, and those of longitude, latitude and elevation that help.

    Many correlations are averaged, each weighed by how well it predicts left-out stations: with few stations none of
    them is known well, and the single best one is often extreme. Of many stations, a place takes those around it.

    Args:
        groups: places that take the same stations.
        std: of the errors, shape (place,).
        spread: root mean square of the stations' errors when each is left out.
        drift: names of the functions.
        length: mean length of the correlations, km.
    """

    groups: tuple[Neighborhood, ...]
    std: np.ndarray
    spread: float
    drift: tuple[str, ...]
    length: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return values at the places, shape (time, place), from those at the stations, (time, station)."""
        found = np.empty((len(values), len(self.std)))
        for group in self.groups:
            found[:, group.places] = values[:, group.stations] @ group.weights.T
        return found


def learn_kriging(values: np.ndarray, departures: np.ndarray, places: np.ndarray, targets: np.ndarray) -> Kriging:
    r"""Weigh correlations and choose functions of the place by the stations that are left out; return the weights.

    Correlations weigh \(e^{-(E / E_{best} - 1) / .03}\) with E the mean absolute error of departures from the
    stations' own means, which a station in an unusual place does not decide; the functions of the place are chosen by
    that of the values.

    Args:
        values: at the stations, without gaps, shape (time, station).
        departures: of the values from the stations' mean cycles, likewise.
        places: longitude, latitude, elevation of the stations, shape (station, 3).
        targets: of the places, shape (place, 3).

    Fewer than three stations tell nothing of correlations: they weigh by inverse squared distance, and the standard
    deviation is that of the departures.

    Source: Dubrule (1983) for errors without a station in closed form; Bachoc (2013) for parameters chosen by them.
    """
    if len(places) < LEAST:
        near = 1 / np.maximum(great_circle(targets, places), 1e-3) ** 2
        spread = float(np.sqrt(np.mean(departures**2)))
        every = Neighborhood(np.arange(len(targets)), np.arange(len(places)), near / near.sum(1, keepdims=True))
        return Kriging((every,), np.full(len(targets), spread), spread, (), np.inf)
    times = np.linspace(0, len(values) - 1, min(MOST_TIMES, len(values))).astype(int)
    judged, a, x = _judged(places), departures[times], values[times]
    one = np.ones((len(places), 1))
    tried = _tried(max(float(part.distances.max()) for part in judged))
    shares = _shares(np.array([_mean_error(judged, each, one, a) for each in tried]))
    best = tried[int(np.argmax(shares))]
    drifts = {
        names: _drift(places, places, names) for names in _candidates(places, min(len(p.stations) for p in judged))
    }
    errors = {names: _mean_error(judged, best, F, x) for names, F in drifts.items()}
    names = min(errors, key=lambda each: (round(errors[each] / errors[()], 2), len(each)))  # one per cent must be won
    kept = [(parameters, share) for parameters, share in zip(tried, shares, strict=True) if share > 0]
    missed = [_left_out_of(judged, parameters, drifts[names], x) for parameters, _ in kept]
    sizes = [share * float(np.mean(scaled**2)) for (_, share), (_, scaled) in zip(kept, missed, strict=True)]
    F, f = drifts[names], _drift(places, targets, names)
    groups, variance = [], np.zeros(len(targets))
    for at, stations in _neighborhoods(places, targets):
        near, to_targets = great_circle(places[stations], places[stations]), great_circle(targets[at], places[stations])
        weights = np.zeros(to_targets.shape)
        for (parameters, share), size in zip(kept, sizes, strict=True):
            w, left = _universal(
                _correlations(near, parameters), _correlations(to_targets, parameters, False), F[stations], f[at]
            )
            weights += share * w
            variance[at] += size * np.maximum(1 + parameters[2] + parameters[0] + left, 0)
        groups.append(Neighborhood(at, stations, weights))
    e = sum(share * each for (_, share), (each, _) in zip(kept, missed, strict=True))
    length = float(shares @ np.array([each[1] for each in tried]))
    return Kriging(tuple(groups), np.sqrt(variance), float(np.sqrt(np.mean(e**2))), names, length)


def _neighborhoods(places: np.ndarray, targets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return indices of targets, and of the stations that they take: all, or those around the nearest one."""
    if len(places) <= LARGEST:
        return [(np.arange(len(targets)), np.arange(len(places)))]
    points = unit_vectors(places)
    nearest = cKDTree(points).query(unit_vectors(targets))[1]
    found = [(np.flatnonzero(np.isin(nearest, region.own)), region.seen) for region in divide(points, OWN, AROUND)]
    return [(at, stations) for at, stations in found if at.size]


class _Judged(NamedTuple):
    """Stations that predict each other, with their distances; the errors of the first `own` count."""

    stations: np.ndarray
    own: int
    distances: np.ndarray


def _judged(places: np.ndarray) -> list[_Judged]:
    """Return what correlations are judged by: stations of the whole network, or whole neighborhoods of a large one.

    Errors at the stations of a thinned network would say little of those of a dense one.
    """
    if len(places) <= LARGEST:
        chosen = np.linspace(0, len(places) - 1, min(MOST, len(places))).astype(int)
        sets = [(chosen, len(chosen))]
    else:
        regions = divide(unit_vectors(places), OWN, AROUND)
        some = np.linspace(0, len(regions) - 1, min(JUDGED, len(regions))).astype(int)
        sets = [(regions[k].seen, len(regions[k].own)) for k in some]
    return [_Judged(stations, own, great_circle(places[stations], places[stations])) for stations, own in sets]


def _left_out_of(
    judged: list[_Judged], parameters: tuple[float, ...], F: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for what is judged what `_left_out` does; F and x are of all stations."""
    parts = [
        [each[:, : part.own] for each in _left_out(
            _correlations(part.distances, parameters), F[part.stations], x[:, part.stations]
        )]
        for part in judged
    ]  # fmt: skip
    return np.concatenate([missed for missed, _ in parts], 1), np.concatenate([scaled for _, scaled in parts], 1)


def _mean_error(judged: list[_Judged], parameters: tuple[float, ...], F: np.ndarray, x: np.ndarray) -> float:
    return float(np.mean(np.abs(_left_out_of(judged, parameters, F, x)[0])))


def _tried(largest: float) -> list[tuple[float, ...]]:
    top = max(largest, 1e-6)
    return [
        (nugget, length * top, share, short * top)
        for length, nugget, (share, short) in itertools.product(LENGTHS, NUGGETS, SHORTER)
    ]


def _shares(errors: np.ndarray) -> np.ndarray:
    """Return the shares of parameters with these errors; those below a hundredth of the best are left out."""
    shares = np.exp(-(errors / errors.min() - 1) / TOLERANCE)
    shares = np.where(shares > 1e-2, shares, 0.0)
    return shares / shares.sum()


def _universal(K: np.ndarray, k: np.ndarray, F: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of universal kriging, and what they change of the variance."""
    factor = cho_factor(K, lower=True, check_finite=False)
    simple, KF = cho_solve(factor, k.T).T, cho_solve(factor, F)
    rest = f - simple @ F
    along = np.linalg.solve(F.T @ KF, rest.T).T
    return simple + along @ KF.T, np.sum(along * rest, axis=1) - np.sum(simple * k, axis=1)


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
