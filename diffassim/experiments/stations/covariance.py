"""The covariance of departures at stations, from records with gaps that may be shorter than there are stations."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from diffassim.experiments.stations.regions import columns_of

__all__ = ["pairwise_covariance", "shrunk_covariance"]

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
LEAST_EIGENVALUE = 1e-5
LARGE = 1200  # components from which on eigenvalues take too long
FOLDS = 4
ROWS = 240  # on which a share is judged
MOST, LEAST = 200, 4  # components, and stations, on which it is judged


def pairwise_covariance(departures: np.ndarray) -> np.ndarray:
    """Return second moments of what was observed together; not necessarily positive definite.

    Args:
        departures: NaN where missing, shape (time, component).
    """
    known = np.isfinite(departures)
    filled = np.where(known, departures, 0.0)
    count = known.T.astype(float) @ known
    return filled.T @ filled / np.maximum(count, 1)


def shrunk_covariance(departures: np.ndarray, distances: np.ndarray | None) -> np.ndarray:
    r"""Return the sample covariance drawn towards one of fewer parameters, as far as other times ask for it.

    .. math:: C = (1 - \lambda) S + \lambda D^{1/2} T D^{1/2}

    with the pairwise covariance S, its diagonal D, and correlations T that fall off with the distance and are otherwise
    the mean over stations (or, without places, are zero between stations). The share is the one under which times that
    S does not know are most likely, over four parts of the record.

    Args:
        departures: NaN where missing, shape (time, component), variables fastest.
        distances: of the stations, shape (station, station), or None.

    Returns:
        Positive definite, shape (component, component).

    Source: Ledoit and Wolf (2004) for the form; the share by cross-validation (Bickel and Levina, 2008, section 5).
    """
    stations = departures.shape[1] if distances is None else len(distances)
    share = _best_share(*_some_stations(departures, distances, stations))
    return positive(_mixed(*_both(departures, distances, stations), share))


def _some_stations(
    departures: np.ndarray, distances: np.ndarray | None, stations: int
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return departures and distances of as many stations as a share is judged on."""
    variables = departures.shape[1] // stations
    chosen = np.linspace(0, stations - 1, min(stations, max(MOST // variables, LEAST))).astype(int)
    columns = columns_of(chosen, variables)
    return departures[:, columns], None if distances is None else distances[np.ix_(chosen, chosen)], len(chosen)


def _best_share(departures: np.ndarray, distances: np.ndarray | None, stations: int) -> float:
    judged = np.linspace(0, len(departures) - 1, min(ROWS, len(departures))).astype(int)
    loss = np.zeros(len(SHARES))
    for part in np.array_split(np.arange(len(departures)), FOLDS):
        rest = np.setdiff1d(np.arange(len(departures)), part)
        S, T = _both(departures[rest], distances, stations)
        rows = departures[np.intersect1d(judged, part)]
        loss += [_minus_log_density(positive(_mixed(S, T, share)), rows) for share in SHARES]
    return SHARES[int(np.argmin(loss))]


def _both(departures: np.ndarray, distances: np.ndarray | None, stations: int) -> tuple[np.ndarray, np.ndarray]:
    S = pairwise_covariance(departures)
    std = np.sqrt(np.maximum(np.diag(S), 1e-12))
    correlation = S / np.outer(std, std)
    if distances is None or stations < 3:
        return S, np.diag(np.diag(S))
    variables = len(S) // stations
    blocks = correlation.reshape(stations, variables, stations, variables)
    together = np.einsum("svsw->vw", blocks) / stations
    apart = ~np.eye(stations, dtype=bool)
    along = np.mean([blocks[:, v, :, v] for v in range(variables)], axis=0)
    scale, share = _decay(distances[apart], along[apart])
    space = np.where(apart, share * np.exp(-distances / scale), 1.0)
    T = np.einsum("st,vw->svtw", space, together).reshape(S.shape)
    return S, T * np.outer(std, std)


def _decay(distance: np.ndarray, correlation: np.ndarray) -> tuple[float, float]:
    """Return length and share at distance zero of an exponential through correlations, by least squares on a grid."""
    best = (np.inf, 1.0, 0.5)
    top = max(float(distance.max()), 1e-6)
    for scale in top * np.geomspace(0.02, 20, 25):
        shape = np.exp(-distance / scale)
        share = float(np.clip(shape @ correlation / (shape @ shape), 0.0, 0.99))
        error = float(np.sum((correlation - share * shape) ** 2))
        best = min(best, (error, float(scale), share))
    return best[1], best[2]


def _mixed(S: np.ndarray, T: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * S + share * T


def positive(C: np.ndarray) -> np.ndarray:
    """Return the matrix with its eigenvalues held above a small share of their mean.

    Of a large one, all eigenvalues are raised by as much as makes it positive definite.
    """
    least = LEAST_EIGENVALUE * max(float(np.trace(C)) / len(C), 1e-12)
    if len(C) > LARGE:
        C, raised = (C + C.T) / 2, least
        while True:
            try:
                np.linalg.cholesky(C + raised * np.eye(len(C)))
            except np.linalg.LinAlgError:
                raised *= 4
            else:
                return C + raised * np.eye(len(C))
    values, vectors = np.linalg.eigh((C + C.T) / 2)
    return (vectors * np.maximum(values, least)) @ vectors.T


def _minus_log_density(C: np.ndarray, rows: np.ndarray) -> float:
    """Return the sum over rows, less a constant; of the missing values, only as many as there are cost anything."""
    L = np.linalg.cholesky(C)
    inverse = cho_solve((L, True), np.eye(len(C)))
    known = np.isfinite(rows)
    y = np.where(known, rows, 0.0)
    u = y @ inverse
    total = 0.5 * float(np.sum(y * u)) + len(rows) * float(np.log(np.diag(L)).sum())
    for row, seen in zip(u, known, strict=True):
        if not seen.all():  # the inverse for what is known, by that for all: Horn and Johnson (2013), section 0.7.3
            part = np.linalg.cholesky(inverse[np.ix_(~seen, ~seen)])
            w = solve_triangular(part, row[~seen], lower=True, check_finite=False)
            total += float(np.log(np.diag(part)).sum()) - 0.5 * float(w @ w)
    return total
