"""Gauss-Newton products of spectral models: what one inner iteration costs, in forward runs and without storing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import diffassim as da
from benchmarks.harness import Record, first_call, interleave, report
from diffassim.models.numerics.exponential import phi_functions
from diffassim.variational.minimizers.trust_region import truncated_cg

TIMES = 5  # observation times, spread evenly
FORWARD_RUNS, STORED = 3.5, 0.85  # the aims
FEW, MANY = 1, 5  # inner iterations whose difference is timed


def problem(name: str, n: int, steps: int, seed: int = 0) -> da.StrongConstraint4DVar:
    """Return a window of a spectral model on its attractor, every second point observed at five times."""
    rng = np.random.default_rng(seed)
    if name == "Kuramoto-Sivashinsky":
        model: Any = da.models.KuramotoSivashinsky(length=n * math.pi / 4)
        x = jnp.asarray(rng.normal(size=n))
    else:
        model = da.models.NavierStokes(viscosity=1e-2, force=1.0, wavenumber=2, dt=0.02)
        k = np.hypot(*np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n)))
        x = jnp.asarray(20 * np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) * np.exp(-(k**2) / 32)).real)
    x = da.rollout(model, x, 100, at=[100])[0]
    B = da.covariances.Diagonal(std=0.1)
    every = steps // TIMES
    values = rng.normal(size=(TIMES, *x.shape[:-1], n // 2))
    obs = da.Observations(
        values, every * np.arange(1, TIMES + 1), operator=da.observations.Subsample(every=2),
        error=da.covariances.Diagonal(std=1.0),
    )  # fmt: skip
    return da.StrongConstraint4DVar(model, x, B, obs)


def bare_run(cost: da.StrongConstraint4DVar) -> Callable[[Any], Any]:
    """Return a bare forward run: the coefficients precomputed, the modes carried from step to step, one state kept."""
    model, shape = cost.model, cost.background.shape
    steps = cost.steps
    assert steps is not None
    index = [np.fft.fftfreq(m, 1 / m) for m in shape[:-1]] + [np.arange(shape[-1] // 2 + 1)]
    k = np.meshgrid(*(2 * math.pi / float(model.length) * i for i in index), indexing="ij")
    kept = math.prod(3 * np.abs(i) < m for i, m in zip(np.meshgrid(*index, indexing="ij"), shape, strict=True))
    square = sum(i**2 for i in k)
    axes = tuple(range(-len(shape), 0))
    if len(shape) == 1:
        linear = square - float(model.viscosity) * square**2
        factor = jnp.asarray(-0.5j * k[0] * kept)

        def nonlinear(m: Any) -> Any:
            return factor * jnp.fft.rfft(jnp.fft.irfft(jnp.asarray(kept) * m, shape[0]) ** 2)
    else:
        linear = -float(model.viscosity) * square
        inverse = np.where(square > 0, 1, 0) / np.where(square > 0, square, 1)
        out = jnp.asarray(np.stack([1j * k[0] * inverse * kept, -1j * k[1] * inverse * kept]))
        back = jnp.asarray(np.stack([(k[1] ** 2 - k[0] ** 2) * kept, -k[0] * k[1] * kept]))
        y = 2 * np.pi / shape[0] * np.arange(shape[0])
        wave = -float(model.force) * model.wavenumber * np.cos(model.wavenumber * y)
        force = jnp.fft.rfft2(jnp.asarray(np.repeat(wave[:, None], shape[1], axis=1)))

        def nonlinear(m: Any) -> Any:
            u, v = jnp.fft.irfftn(out * m, shape, axes)
            products = jnp.fft.rfftn(jnp.stack([u * v, u * u - v * v]), axes=axes)
            return back[0] * products[0] + back[1] * products[1] + force

    dt, z = float(model.dt), jnp.asarray(float(model.dt) * linear)
    p1, p2, p3 = phi_functions(z)
    half, full, by_half = jnp.exp(z / 2), jnp.exp(z), dt / 2 * phi_functions(z / 2)[0]
    of_u, of_ab, of_c = dt * (p1 - 3 * p2 + 4 * p3), 2 * dt * (p2 - 2 * p3), dt * (4 * p3 - p2)

    def step(_: Any, u: Any) -> Any:
        n_u = nonlinear(u)
        a = half * u + by_half * n_u
        n_a = nonlinear(a)
        n_b = nonlinear(half * u + by_half * n_a)
        n_c = nonlinear(half * a + by_half * (2 * n_b - n_u))
        return full * u + of_u * n_u + of_ab * (n_a + n_b) + of_c * n_c

    def run(x: Any) -> Any:
        # Bare JAX: real times complex is cheaper than complex times complex.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jnp.fft.irfftn(lax.fori_loop(0, steps, step, jnp.fft.rfftn(x, axes=axes)), shape, axes)

    return run


def peer_run(cost: da.StrongConstraint4DVar) -> Callable[[Any], Any] | None:
    """Return a forward run of exponax, of the same order and without force (which costs less), or None without it."""
    try:
        import exponax
    except ImportError:
        return None
    model, n, dims = cost.model, cost.background.shape[-1], cost.background.ndim
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if dims == 1:
            stepper = exponax.stepper.KuramotoSivashinskyConservative(
                1, float(model.length), n, float(model.dt), order=4
            )
        else:
            stepper = exponax.stepper.NavierStokesVorticity(
                2, float(model.length), n, float(model.dt), diffusivity=float(model.viscosity), order=4
            )

    def run(x: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return lax.fori_loop(0, cost.steps, lambda _, u: stepper(u), x[None])[0]

    return run


def inner_loop(products: int, way: str) -> Callable[[Any, Any], Any]:
    """Return a program of so many inner iterations at v, whose tangent is stored or evaluated in every product."""

    def run(cost: Any, v: Any) -> Any:
        if way == "stored":
            cost = cost.replace(segment=cost.steps)
        residuals, tangent = jax.linearize(cost.residuals, v)
        (gradient,) = jax.linear_transpose(tangent, v)(residuals)
        if way == "evaluated again":

            def product(p: Any) -> Any:
                moved = jax.jvp(cost.residuals, (v,), (p,))[1]
                return jax.vjp(cost.residuals, v)[1](moved)[0]
        else:
            adjoint = jax.linear_transpose(tangent, v)

            def product(p: Any) -> Any:
                return adjoint(tangent(p))[0]

        radius = jnp.asarray(jnp.inf, cost.background.dtype)
        return truncated_cg(product, gradient, radius, jnp.zeros_like(radius), products).step

    return jax.jit(run)


def measure(name: str, n: int, steps: int, budget: float) -> list[Record]:
    cost = problem(name, n, steps)
    v, x = cost.control(), cost.background
    value = jax.jit(lambda c, v: c(v))
    bare = jax.jit(bare_run(cost))
    np.testing.assert_allclose(bare(x), da.rollout(cost.model, x, cost.steps, at=[cost.steps])[0], atol=1e-8)
    cases = {"J": lambda: value(cost, v), "bare forward run": lambda: bare(x)}
    peer = peer_run(cost)
    if peer is not None:
        compiled = jax.jit(peer)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            jax.block_until_ready(compiled(x))
        cases["forward run of exponax"] = lambda: compiled(x)
    for way in ("stored", "checkpointed", "evaluated again"):
        for products in (FEW, MANY):
            loop = inner_loop(products, way)
            cases[f"{way}, {products}"] = lambda loop=loop: loop(cost, v)
    first = {key: first_call(function) for key, function in cases.items()}
    times = interleave(cases, rounds=15, budget=budget)
    forwards = [key for key in cases if "forward" in key or key == "J"]
    fastest = min(forwards, key=lambda key: times[key].seconds)
    size = f"{name}, {' x '.join(map(str, x.shape))}, {steps} steps"

    def iteration(way: str, clock: str) -> float:
        return (getattr(times[f"{way}, {MANY}"], clock) - getattr(times[f"{way}, {FEW}"], clock)) / (MANY - FEW)

    records = [
        Record(
            what=key, size=size, compile_seconds=first[key] - times[key].seconds, seconds=times[key].seconds,
            cpu_seconds=times[key].cpu_seconds, reference=fastest, ratio=times[key].seconds / times[fastest].seconds,
        )
        for key in forwards
    ]  # fmt: skip
    again = min(("checkpointed", "evaluated again"), key=lambda way: iteration(way, "seconds"))
    for way in ("stored", "checkpointed", "evaluated again"):
        seconds, cpu = iteration(way, "seconds"), iteration(way, "cpu_seconds")
        records.append(
            Record(
                what=f"inner iteration, tangent {way}", size=size, seconds=seconds, cpu_seconds=cpu,
                reference=fastest, ratio=seconds / times[fastest].seconds,
                target=FORWARD_RUNS if way == "stored" else None,
                more={"ratio in processor time": cpu / times[fastest].cpu_seconds},
            )
        )  # fmt: skip
    records.append(
        Record(
            what="stored over " + again, size=size, seconds=iteration("stored", "seconds"), reference=again,
            ratio=iteration("stored", "seconds") / iteration(again, "seconds"), target=STORED,
            more={"ratio in processor time": iteration("stored", "cpu_seconds") / iteration(again, "cpu_seconds")},
        )
    )  # fmt: skip
    return records


def outer_loops(name: str, n: int, steps: int) -> Record:
    """Compare the first search, of one outer iteration, with a later one of several: nothing is compiled for them."""
    cost = problem(name, n, steps)
    counts = {}
    for tolerance in (1e9, 1e-3):
        traces = len(_TRACES)
        search = jax.block_until_ready(_search(cost, tolerance))
        counts[tolerance] = int(search.iterations), len(_TRACES) - traces
    (few, compiled), (many, again) = counts.values()
    return Record(
        what="programs compiled", size=f"{name}, {' x '.join(map(str, cost.background.shape))}", ratio=float(again),
        reference="further outer loops", target=0.0,
        more={"for": f"{few} outer loop(s): {compiled}", "then for": f"{many} outer loops: {again}"},
    )  # fmt: skip


_TRACES: list[int] = []


@jax.jit
def _search(cost: Any, tolerance: Any) -> Any:
    _TRACES.append(1)
    return da.minimize(cost, da.GaussNewton(tolerance=tolerance, max_iterations=30, growth=None)).search


def main(
    *, line: int = 1024, square: tuple[int, ...] = (64, 128), steps: int = 20, budget: float = 20.0,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Time one inner iteration of Gauss-Newton beside forward runs of the same window.

    Args:
        line: points of Kuramoto-Sivashinsky.
        square: points a side of Navier-Stokes (Kolmogorov flow).
        steps: window length in model steps.
        budget: seconds for the rounds of each model.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = measure("Kuramoto-Sivashinsky", line, steps, budget)
    for n in square:
        records += measure("Navier-Stokes", n, steps, budget)
    report("spectral", [*records, outer_loops("Navier-Stokes", min(square), min(steps, 20))], json)


if __name__ == "__main__":
    cyclopts.run(main)
