"""Regression with a penalty that is chosen on parts of the record that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["PENALTIES", "choose_penalties", "fit_ridge", "predict_left_out"]

FOLDS = 6
SHARED = 0.75  # of the rows that the best observed target has
PENALTIES = np.geomspace(1e-5, 1e3, 25)  # in units of the number of rows: of regressors with unit variance


def choose_penalties(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    r"""Return the squared errors of each penalty in parts that the regression does not know.

    For \(Y = X \beta\) with the penalty \(\lambda |\beta|^2\). Parts are stretches of the record, so that neighbors in
    time do not tell the answer; each is predicted through one eigendecomposition of the products of the others.

    Args:
        X: regressors, shape (time, regressor), all finite.
        Y: targets, shape (time, target); NaN is missing.

    Returns:
        Sums over time, shape (penalty, target).
    """
    errors = np.zeros((len(PENALTIES), Y.shape[1]))
    for rows, targets in _patterns(Y):
        found = _left_out(X[rows], Y[np.ix_(rows, targets)], PENALTIES)
        errors[:, targets] = np.sum((found - Y[np.ix_(rows, targets)][None]) ** 2, axis=1)
    return errors


def predict_left_out(X: np.ndarray, Y: np.ndarray, penalties: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return predictions for the parts that each regression does not know, NaN where a target is missing.

    Args:
        X: regressors, shape (time, regressor).
        Y: targets, shape (time, target).
        penalties: one for each target.
    """
    predicted, penalties = np.full(Y.shape, np.nan), np.asarray(penalties)
    for rows, targets in _patterns(Y):
        distinct, which = np.unique(penalties[targets], return_inverse=True)
        found = _left_out(X[rows], Y[np.ix_(rows, targets)], distinct)
        predicted[np.ix_(rows, targets)] = np.take_along_axis(found, which.ravel()[None, None], axis=0)[0]
    return predicted


def fit_ridge(X: np.ndarray, Y: np.ndarray, penalties: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return coefficients, shape (regressor, target); zeros for a target that was hardly ever observed.

    Args:
        X: regressors, shape (time, regressor).
        Y: targets, shape (time, target).
        penalties: one for each target.
    """
    coefficients, penalties = np.zeros((X.shape[1], Y.shape[1])), np.asarray(penalties)
    for rows, targets in _patterns(Y):
        values, vectors = np.linalg.eigh(X[rows].T @ X[rows])
        along = vectors.T @ (X[rows].T @ Y[np.ix_(rows, targets)])
        coefficients[:, targets] = vectors @ (
            along / (np.maximum(values, 0)[:, None] + penalties[targets][None] * len(rows))
        )
    return coefficients


def _patterns(Y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows and targets that belong together: targets with the same gaps share their products.

    Where few rows lack any of the targets, all of them share the others: that is much faster.
    """
    known = np.isfinite(Y)
    some = known.any(0)
    complete = known[:, some].all(1)
    if some.any() and complete.sum() >= SHARED * known[:, some].sum(0).max() > FOLDS:
        return [(np.flatnonzero(complete), np.flatnonzero(some))]
    patterns, which = np.unique(np.isfinite(Y).T, axis=0, return_inverse=True)
    found = [(np.flatnonzero(pattern), np.flatnonzero(which.ravel() == n)) for n, pattern in enumerate(patterns)]
    return [(rows, targets) for rows, targets in found if rows.size > FOLDS]


def _left_out(X: np.ndarray, Y: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    parts = np.array_split(np.arange(len(X)), FOLDS)
    G, g = [X[part].T @ X[part] for part in parts], [X[part].T @ Y[part] for part in parts]
    whole, right = sum(G), sum(g)
    predicted = np.empty((len(penalties), *Y.shape))
    for k, part in enumerate(parts):
        values, vectors = np.linalg.eigh(whole - G[k])
        along, seen = vectors.T @ (right - g[k]), X[part] @ vectors
        for i, penalty in enumerate(penalties):
            predicted[i, part] = (seen / (np.maximum(values, 0) + penalty * (len(X) - len(part)))) @ along
    return predicted
