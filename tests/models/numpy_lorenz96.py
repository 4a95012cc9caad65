"""Lorenz-96 in NumPy with tangent and adjoint by hand, as a program outside of JAX would have them."""

from __future__ import annotations

import numpy as np

DT, FORCING = 0.05, 8.0


def _speed(x):
    return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + FORCING


def _tangent(x, dx):
    left = (np.roll(dx, -1, -1) - np.roll(dx, 2, -1)) * np.roll(x, 1, -1)
    return left + (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(dx, 1, -1) - dx


def _transposed(x, w):
    p, q = w * np.roll(x, 1, -1), w * (np.roll(x, -1, -1) - np.roll(x, 2, -1))
    return np.roll(p, 1, -1) - np.roll(p, -2, -1) + np.roll(q, -1, -1) - w


def _stages(x):
    b = x + DT / 2 * _speed(x)
    c = x + DT / 2 * _speed(b)
    return x, b, c, x + DT * _speed(c)


def step(x, t):
    """One step of the classical Runge-Kutta scheme; members, if any, in front."""
    k1, k2, k3, k4 = map(_speed, _stages(x))
    return x + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def tangent(dx, x, t):
    """Derivative of `step` at x along dx."""
    a, b, c, d = _stages(x)
    k1 = _tangent(a, dx)
    k2 = _tangent(b, dx + DT / 2 * k1)
    k3 = _tangent(c, dx + DT / 2 * k2)
    k4 = _tangent(d, dx + DT * k3)
    return dx + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def adjoint(w, x, t):
    """Transpose of `tangent` at x, applied to w."""
    a, b, c, d = _stages(x)
    back4 = _transposed(d, DT / 6 * w)
    back3 = _transposed(c, DT / 3 * w + DT * back4)
    back2 = _transposed(b, DT / 3 * w + DT / 2 * back3)
    back1 = _transposed(a, DT / 6 * w + DT / 2 * back2)
    return w + back1 + back2 + back3 + back4
