"""One small instance of every covariance: a new class is tested by being listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffassim.core.fourier import Split
from diffassim.core.pytree import Pytree
from diffassim.core.sharding import device_mesh
from diffassim.covariances import (
    Blocks,
    Covariance,
    Dense,
    Diagonal,
    Diffusion,
    Ensemble,
    ExplicitDiffusion,
    Gaussian,
    Kronecker,
    LocalRoot,
    LowRank,
    Matern,
    MeasuredSpectrum,
    Zero,
    ZonallyHomogeneous,
)
from diffassim.grids.grid import Grid


class Entry(NamedTuple):
    """A covariance with a state that it fits, and what it can do."""

    name: str
    covariance: Covariance
    example_state: Callable[[Any], Any]
    whitens: bool = True  # has whiten and logdet
    solves: bool = True
    masks: bool = False


class Column(Pytree):
    """A state object of two parts."""

    wind: Any
    humidity: Any


def array(*shape):
    return lambda dtype: jnp.asarray(np.random.default_rng(7).normal(size=shape), dtype)


def column(dtype):
    return Column(array(4)(dtype), {"low": array(2)(dtype), "high": array()(dtype)})


def spd(n, seed=0):
    F = np.random.default_rng(seed).normal(size=(n, n))
    return F @ F.T / n + np.eye(n)


def measured(*shape):
    samples = jnp.asarray(np.random.default_rng(9).normal(size=(8, *shape)))
    return MeasuredSpectrum.from_samples(samples, Grid((0.5,) * len(shape), (True,) * len(shape)))


def rows_of_circles(dtype):
    return Column(array(3, 5)(dtype), array(2, 5)(dtype))


def zonal():
    rng = np.random.default_rng(11)
    return ZonallyHomogeneous.from_samples(Column(*(jnp.asarray(rng.normal(size=(9, k, 5))) for k in (3, 2))))


FIELD = 1.0 + 0.5 * np.cos(np.arange(6.0))
CIRCLE, SEGMENT, CHANNEL = Grid(0.5, True), Grid(0.5, False), Grid(1.0, (False, True))
ALONE = Split(device_mesh(1), "device", -2)
MEMBERS = np.random.default_rng(3).normal(size=(4, 6))
COLUMNS = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(5).normal(size=(3, *x.shape))), column(jnp.float64))
dense = Dense.from_matrix(spd(6))

COVARIANCES = [
    Entry("diagonal number", Diagonal(std=0.7), array(6), masks=True),
    Entry("diagonal field", Diagonal(std=FIELD), array(6), masks=True),
    Entry("diagonal pytree", Diagonal(std=Column(2.0, {"low": np.array([1.0, 3.0]), "high": 0.5})), column, masks=True),
    Entry("dense", dense, array(6), masks=True),
    Entry("scaled", 0.3 * dense, array(6), masks=True),
    Entry("sum", Diagonal(std=0.5) + 2.0 * dense, array(6), whitens=False),
    Entry("blocks", Blocks(Column(Dense.from_matrix(spd(4)), Diagonal(std=0.4))), column, masks=True),
    Entry("blocks with zero", Blocks(Column(Diagonal(std=0.4), Zero())), column, whitens=False, solves=False),
    Entry("Gaussian periodic", Gaussian(1.3, 0.8, CIRCLE, nugget=1e-2), array(6)),
    Entry("Gaussian bounded, field", Gaussian(FIELD, 0.8, SEGMENT, nugget=1e-2), array(6)),
    Entry("Gaussian 2-D", Gaussian(1.3, (0.7, 1.1), Grid(1.0, (True, False)), nugget=1e-2), array(3, 4)),
    Entry("Matern periodic", Matern(0.9, 1.0, CIRCLE, smoothness=1.5), array(7)),
    Entry("Matern bounded", Matern(0.9, 1.0, SEGMENT, smoothness=0.5), array(7)),
    Entry("Matern 3-D", Matern(0.9, 1.5, Grid((1.0, 2.0, 1.0), (False, True, True))), array(3, 4, 2)),
    Entry("diffusion periodic", Diffusion(0.9, 1.0, CIRCLE, order=4), array(6)),
    Entry("diffusion varying", Diffusion(FIELD, 0.5 + 0.1 * np.arange(6.0), SEGMENT, order=4), array(6)),
    Entry("diffusion varying periodic", Diffusion(0.9, 0.5 + FIELD / 2, CIRCLE, order=4), array(6)),
    Entry("diffusion 2-D", Diffusion(0.9, (0.8, np.array([0.5, 1.0, 2.0])), Grid(1.0, (True, False)), 2), array(4, 3)),
    Entry(
        "explicit diffusion 2-D",
        ExplicitDiffusion(FIELD[:4, None], (0.8, np.array([0.5, 1.0, 1.2])), Grid(1.0, (True, False)), 4),
        array(4, 3),
        whitens=False,
        solves=False,
    ),
    Entry("Matern in parts", Matern(0.9, 1.5, Grid(1.0, (True, True)), split=ALONE), array(3, 4)),
    Entry("Gaussian in parts between walls", Gaussian(FIELD[:4], 1.0, CHANNEL, nugget=1e-2, split=ALONE), array(3, 4)),
    Entry("measured spectrum", measured(6), array(6)),
    Entry("measured spectrum, odd 2-D", measured(4, 5), array(4, 5)),
    Entry("zonally homogeneous", zonal(), rows_of_circles, whitens=False, solves=False),
    Entry("zonally homogeneous in parts", zonal().replace(split=ALONE), rows_of_circles, whitens=False, solves=False),
    Entry("Kronecker", Kronecker(Dense.from_matrix(spd(3)), Matern(0.9, 1.0, CIRCLE)), array(3, 4)),
    Entry(
        "Kronecker of three",
        Kronecker(Diagonal(np.array([0.5, 2.0])), *[Dense.from_matrix(spd(2))] * 2),
        array(2, 2, 2),
    ),
    Entry("ensemble", Ensemble(MEMBERS), array(6), whitens=False, solves=False),
    Entry(
        "ensemble localized",
        Ensemble(MEMBERS, Gaussian(1.0, 1.0, CIRCLE, nugget=1e-2)),
        array(6),
        whitens=False,
        solves=False,
    ),
    Entry("ensemble pytree", Ensemble(COLUMNS), column, whitens=False, solves=False),
    Entry("local root", LocalRoot(np.random.default_rng(2).normal(size=(6, 5))), array(6), whitens=False, solves=False),
    Entry(
        "local root 2-D",
        LocalRoot(np.random.default_rng(2).normal(size=(4, 3, 9)), axes=2),
        array(4, 3),
        whitens=False,
        solves=False,
    ),
    Entry("low rank", LowRank(MEMBERS[:2]), array(6), whitens=False, solves=False),
    Entry("low rank with residual", LowRank(MEMBERS[:2], Diagonal(FIELD)), array(6)),
    Entry(
        "low rank pytree", LowRank(COLUMNS, Diagonal(Column(2.0, {"low": np.array([1.0, 3.0]), "high": 0.5}))), column
    ),
    Entry("hybrid", 0.5 * Diagonal(std=0.8) + 0.5 * Ensemble(MEMBERS), array(6), whitens=False),
]


def flat(function, example):
    """Write a linear function of a pytree as a matrix."""
    vector, unravel = ravel_pytree(example)
    images = jax.vmap(lambda e: ravel_pytree(function(unravel(e)))[0])(jnp.eye(vector.size, dtype=vector.dtype))
    return images.T
