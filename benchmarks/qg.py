"""Steps and gradients of the quasi-geostrophic models, the two-layer one beside pyqg-jax at equal tendencies."""

from __future__ import annotations

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
from diffassim.models.numerics.fourier import to_grid, to_modes

STEP, GRADIENT = 1 / 4, 1 / 2.5  # the aims


def developed(n: int, dtype: Any, steps: int = 2000) -> jax.Array:
    """Return potential vorticity of two layers with eddies, spun up from noise."""
    noise = np.random.default_rng(0).normal(size=(2, n, n))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n)))
    q = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-(k**2) / 32) * (k > 0)).real
    model = da.models.TwoLayerQG()
    q = jnp.asarray(2e-5 * q / q.std(), dtype)
    return da.rollout(model, q, steps, at=[steps])[0]


def ours(n: int, dtype: Any, steps: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return functions of q: the end of a run of Adams-Bashforth steps, and the gradient of its scaled mean square."""
    scheme = da.models.AdamsBashforth3(da.models.TwoLayerQG().spectral(n, dtype))

    def end(q: Any) -> Any:
        start = scheme.start(to_modes(q, 2))
        last, _ = lax.scan(lambda s, _: (scheme.step(s, 0), None), start, None, length=steps)  # as the peer's
        return to_grid(last.x, (n, n))

    return end, jax.grad(_mean_square(end))


def classical(steps: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the same functions for Runge-Kutta steps of the model on the grid."""
    model = da.models.TwoLayerQG()

    def end(q: Any) -> Any:
        return da.rollout(model, q, steps, at=[steps], segment=steps)[0]

    return end, jax.grad(_mean_square(end))


def peer(n: int, dtype: Any, steps: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Return the same functions of pyqg-jax, or None where it is not installed."""
    try:
        import pyqg_jax
    except ImportError:
        return None
    double = np.dtype(dtype) == np.float64
    precision = pyqg_jax.state.Precision.DOUBLE if double else pyqg_jax.state.Precision.SINGLE
    model = pyqg_jax.qg_model.QGModel(nx=n, precision=precision)
    stepped = pyqg_jax.steppers.SteppedModel(model, pyqg_jax.steppers.AB3Stepper(dt=7200.0))
    template = model.create_initial_state(jax.random.key(0))

    def end(q: Any) -> Any:
        start = stepped.initialize_stepper_state(template.update(q=q))
        last, _ = lax.scan(lambda s, _: (stepped.step_model(s), None), start, None, length=steps)
        return last.state.q

    return end, jax.grad(_mean_square(end))


def _mean_square(end: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda q: jnp.mean(jnp.square(1e5 * end(q)))


def two_layers(n: int, dtype: Any, steps: int, budget: float) -> list[Record]:
    """Time a step and the gradient of a run, which are the same numbers in both libraries."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as pyqg-jax needs it
        return _two_layers(n, dtype, steps, budget)


def _two_layers(n: int, dtype: Any, steps: int, budget: float) -> list[Record]:
    q = developed(n, dtype)
    found = {
        "Adams-Bashforth": ours(n, dtype, steps),
        "Runge-Kutta": classical(steps),
        "pyqg-jax": peer(n, dtype, steps),
    }
    cases: dict[str, Callable[[], Any]] = {}
    results: dict[str, Any] = {}
    for name, functions in found.items():
        for kind, function in zip(("step", "gradient"), functions or (), strict=False):
            compiled = jax.jit(function)
            key = f"{kind}, {name}"
            results[key] = np.asarray(compiled(q))
            cases[key] = lambda f=compiled: f(q)
    if found["pyqg-jax"] is not None:
        tolerance = 1e-9 if np.dtype(dtype) == np.float64 else 1e-2  # rounding grows over the run
        for kind in ("step", "gradient"):
            theirs = results[f"{kind}, pyqg-jax"]
            np.testing.assert_allclose(
                results[f"{kind}, Adams-Bashforth"], theirs, rtol=0, atol=tolerance * np.abs(theirs).max()
            )
    first = {key: first_call(function) for key, function in cases.items()}
    times = interleave(cases, rounds=15, budget=budget)
    records = []
    for key, timing in times.items():
        kind, name = key.split(", ")
        reference = f"{kind}, pyqg-jax"
        known, same = reference in times, name == "Adams-Bashforth"
        more = {"ratio in processor time": timing.cpu_seconds / times[reference].cpu_seconds} if known else {}
        records.append(
            Record(
                what=f"two layers, {key}", size=f"{n} x {n}, {steps} steps, per step", dtype=np.dtype(dtype).name,
                compile_seconds=first[key], seconds=timing.seconds / steps, cpu_seconds=timing.cpu_seconds / steps,
                reference=reference if known else None,
                ratio=timing.seconds / times[reference].seconds if known else None,
                target=(STEP if kind == "step" else GRADIENT) if same else None, more=more,
            )
        )  # fmt: skip
    return records


def closed_basin(n: int, members: int, steps: int, budget: float) -> list[Record]:
    """Time an ensemble forecast of the 1.5-layer model, and the gradient of a run of one member."""
    model = da.models.ReducedGravityQG()
    y, x = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij")
    gyres = jnp.asarray(-10 * np.sin(2 * np.pi * y) * np.sin(np.pi * x))
    ensemble = gyres[None] * (1 + 0.1 * jax.random.normal(jax.random.key(0), (members, 1, 1)))

    def run(x: Any) -> Any:
        return da.rollout(model, x, steps, at=[steps])[0]

    forecast, single = jax.jit(jax.vmap(run)), jax.jit(run)
    gradient = jax.jit(jax.grad(lambda x: jnp.mean(jnp.square(run(x)))))
    cases = {
        f"forecast of {members} members": lambda: forecast(ensemble),
        "run of one member": lambda: single(gyres),
        "gradient, one member": lambda: gradient(gyres),
    }
    first = {key: first_call(function) for key, function in cases.items()}
    times = interleave(cases, rounds=10, budget=budget)
    reference = times["run of one member"]
    return [
        Record(
            what=f"closed basin, {key}", size=f"{n} x {n}, {steps} steps", compile_seconds=first[key],
            seconds=timing.seconds, cpu_seconds=timing.cpu_seconds, reference="run of one member",
            ratio=timing.seconds / reference.seconds,
        )
        for key, timing in times.items()
    ]  # fmt: skip


def main(
    *, n: int = 64, steps: int = 100, basin: int = 129, members: int = 25, budget: float = 20.0,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Time steps and gradients; those of pyqg-jax where it is installed (pip install ".[peers]").

    Args:
        n: points a side of the two-layer model.
        steps: steps of a run.
        basin: points a side of the closed basin.
        members: of its ensemble.
        budget: seconds for the rounds of each part.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = []
    for dtype in (jnp.float64, jnp.float32):
        records += two_layers(n, dtype, steps, budget)
    report("quasi-geostrophic models", records + closed_basin(basin, members, 4, budget), json)


if __name__ == "__main__":
    cyclopts.run(main)
