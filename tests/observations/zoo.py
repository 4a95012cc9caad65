"""Every observation operator with a state that it fits: add a line, and all sweeps over operators test it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree
from diffassim.observations import (
    Biased,
    Compose,
    Field,
    Function,
    Identity,
    Interpolate,
    InterpolateOnSphere,
    Linear,
    Subsample,
    Subset,
)


class Entry(NamedTuple):
    """An operator, a state, the places of two observation times (None: it has none), and whether it is linear."""

    name: str
    operator: Any
    x: Any
    where: Any = None
    linear: bool = True


class Column(Pytree):
    """A state object of two parts."""

    wind: Any
    humidity: Any


def _saturating(x, gain):
    return jnp.tanh(gain * x)


def _at_places(x, gain, where):
    return gain * jnp.sin(x[where])


def _offset(x, where=None):
    return 1.0


def _range(x, where=None):
    return jnp.tanh(x[::2])


RNG = np.random.default_rng(0)
LINE, PLANE = jnp.asarray(RNG.normal(size=8)), jnp.asarray(RNG.normal(size=(6, 8)))
POINTS = jnp.asarray(RNG.uniform(0.1, 2.3, size=(2, 5, 2)))  # in metres, within five cells of 0.5 m and 0.4 m
GLOBE = np.array([-70.0, -30.0, -5.0, 25.0, 40.0, 80.0]), 10.0 + np.arange(8.0) * 45
TOWNS = jnp.asarray(np.stack([RNG.uniform(-65, 75, (2, 5)), RNG.uniform(-170, 350, (2, 5))], axis=-1))
BOTH = [(a, b) for a in (True, False) for b in (True, False)]

OPERATORS = [
    Entry("identity", Identity(), LINE),
    Entry("identity of a pytree", Identity(), Column(LINE, {"low": LINE[:2], "high": LINE[3]})),
    Entry("field of a dict", Field("b"), {"a": LINE, "b": 2 * LINE}),
    Entry("field of an object", Field("wind"), Column(LINE, PLANE)),
    Entry("subset", Subset(jnp.array([0, 3, 3, 7])), LINE),
    Entry("subset of a plane", Subset(jnp.array([7, 2])), PLANE),
    Entry("subset at places", Subset(), LINE, jnp.array([[0, 3], [5, 7]])),
    Entry("subsample", Subsample(every=3, offset=1), LINE),
    Entry("linear", Linear(jnp.asarray(RNG.normal(size=(3, 8)))), LINE),
    Entry("linear on a plane", Linear(jnp.asarray(RNG.normal(size=(3, 8)))), PLANE),
    Entry("interpolate 1-D periodic", Interpolate(jnp.array([[0.3], [7.9], [-1.4]])), LINE),
    Entry("interpolate 1-D bounded", Interpolate(jnp.array([[0.3], [6.9], [9.0]]), periodic=(False,)), LINE),
    Entry("interpolate 1-D at places", Interpolate(spacing=(0.5,)), LINE, jnp.array([[[0.3], [3.1]], [[1.7], [5.6]]])),
    *(
        Entry(f"interpolate 2-D {periodic}", Interpolate(POINTS[0], (0.5, 0.4), (0.1, -0.2), periodic), PLANE)
        for periodic in BOTH
    ),
    Entry("interpolate 2-D at places", Interpolate(None, (0.5, 0.4), None, (True, False)), PLANE, POINTS),
    Entry("interpolate on the sphere", InterpolateOnSphere(*GLOBE, places=TOWNS[0]), PLANE),
    Entry("interpolate fields on the sphere at places", InterpolateOnSphere(*GLOBE, ("wind", "humidity")),
          Column(PLANE, 2 * PLANE), TOWNS),
    Entry("pointwise nonlinear", Function(jnp.arctan), LINE, linear=False),
    Entry("nonlinear with arguments", Function(_saturating, 0.7), LINE, linear=False),
    Entry("nonlinear at places", Function(_at_places, 1.3), LINE, jnp.array([[0, 3], [5, 1]]), linear=False),
    Entry("composed", Compose(Subsample(every=2), jnp.tanh), LINE, linear=False),
    Entry("composed at places", Compose(Interpolate(), jnp.exp), LINE, jnp.array([[[0.3]], [[3.1]]]), linear=False),
    Entry("biased", Biased(Subsample(every=2), (_offset, _range), jnp.array([0.3, -0.2])), LINE, linear=False),
    Entry("composed of three", Compose(Field("wind"), Subset(jnp.array([1, 4])), jnp.square), Column(LINE, PLANE),
          linear=False),
]  # fmt: skip
