"""What prior and exact observations leave open in the row L2, Kolmogorov flow, however well the search is made."""

from __future__ import annotations

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

from diffassim.experiments.learning.kolmogorov_runs import model, steps_per_snapshot
from diffassim.experiments.learning.rows.kolmogorov_flow import LEAD, SENSORS, SNAPSHOTS, climate_of, draw
from diffassim.models import rollout

SIZE, RUNS, LENGTH = 32, 64, 100  # points along each axis; runs that tell the climate, and snapshots of each
STDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
AT_ONCE = 64


@jax.jit
def tangents(mean: jax.Array, B: object, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the derivatives of observed velocities and of the forecast by whitened first states, around a truth."""
    n = steps_per_snapshot(truth.shape[-1])

    def seen(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        states = rollout(model(truth.shape[-1]), x, LEAD * n, at=n * np.arange(LEAD + 1))
        return SENSORS(states[:SNAPSHOTS]).ravel(), states[LEAD].ravel()

    def one(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(seen, (truth,), (B.sqrt(v.reshape(mean.shape)),))[1]  # type: ignore[attr-defined]

    return jax.lax.map(one, jnp.eye(mean.size), batch_size=AT_ONCE)


def left(observed: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    r"""Return the expected sum of absolute errors of the forecast for each standard deviation of the observations.

    The analysis error is Gaussian to first order around the truth, \((I + A^\top A / s^2)^{-1}\).
    """
    _, S, Vt = np.linalg.svd(observed.T, full_matrices=False)
    patterns = (Vt @ ahead) ** 2
    variances = [np.sum(ahead**2, axis=0) - (S**2 / (S**2 + std**2)) @ patterns for std in STDS]
    return np.sum(np.sqrt(2 / np.pi * np.maximum(variances, 0)), axis=1)


def main(*, cases: int = 4, seed: int = 0) -> None:
    """Print the normalized error at snapshot 11 that is expected at the minimum nearest to the truth."""
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(9_000 + seed))
    chains = draw(keys[0], RUNS, LENGTH, SIZE, jnp.float32)
    norm = float(jnp.mean(jnp.sum(jnp.abs(chains), axis=(-1, -2))))
    mean, B = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), climate_of(chains))
    errors = [left(*map(np.asarray, tangents(mean, B, truth))) / norm for truth in draw(keys[1], cases, 1, SIZE)[:, 0]]
    for std, values in zip(STDS, np.transpose(errors), strict=True):
        print(f"standard deviation {std:g}: {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")


if __name__ == "__main__":
    cyclopts.run(main)
