"""Costs and their minima with states, times or members in parts on four devices are those of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import explain_communication
from tests.many_devices import apart, on_devices

POINTS = 64
ONE = da.covariances.Diagonal(std=1.0)
B = da.covariances.Gaussian(std=0.8, length=1.5, grid=da.grids.Grid())


def record(steps):
    rng = np.random.default_rng(0)
    return da.Observations(8 + rng.normal(size=(len(steps), POINTS)), steps, error=ONE)


def background():
    return jnp.asarray(8 + np.random.default_rng(1).normal(size=POINTS))


def values(cost, method=None):
    """Return value and gradient of a cost, its minimum, and the derivative through it."""
    v = jax.tree.map(lambda leaf: leaf + 0.1, cost.control())
    through = jax.grad(lambda x: jnp.sum(jnp.sin(da.minimize(cost.replace(background=x), method).state)))
    J, g = jax.jit(jax.value_and_grad(lambda v, c: c(v)))(v, cost)
    return J, g, da.minimize(cost, method).state, jax.jit(through)(cost.background)


def costs() -> dict:
    mesh, model, x_b = da.device_mesh({"space": 4}), da.models.Lorenz96(), background()
    found = {}
    y = record([2, 4])
    strong = da.StrongConstraint4DVar(model, x_b, B, y)
    here = values(strong)
    split = da.distribute(x_b, mesh, {"space": -1})
    found["strong"] = apart(values(strong.replace(background=split)), here)
    parted = da.models.in_parts(model, x_b, mesh)
    found["strong, halos"] = apart(values(strong.replace(background=split, model=parted)), here)

    ensemble = jnp.asarray(8 + np.random.default_rng(2).normal(size=(8, POINTS)))
    C = da.covariances.Gaussian(std=1.0, length=3.0, grid=da.grids.Grid())

    def hybrid(members):
        return strong.replace(B=0.5 * B + 0.5 * da.covariances.Ensemble(members, localization=C))

    found["hybrid"] = apart(
        values(hybrid(da.distribute(ensemble, mesh)), da.LBFGS()), values(hybrid(ensemble), da.LBFGS())
    )
    both = da.device_mesh({"member": 2, "space": 2})
    spread = da.distribute(ensemble, both, {"member": 0, "space": -1})
    P = da.covariances.in_parts(da.covariances.Ensemble(spread, localization=C), x_b, both, {"space": -1})
    there, here = strong.replace(B=P), strong.replace(B=da.covariances.Ensemble(ensemble, localization=C))
    gradient = jax.jit(jax.value_and_grad(lambda v, c: c(v)))
    v = jax.tree.map(lambda leaf: leaf + 0.1, here.control())
    found["EnVar, members and space"] = apart(
        gradient(da.distribute(v, both, {"member": 0, "space": -1}), there), gradient(v, here)
    )
    counts = explain_communication(P.sqrt, spread)
    found["EnVar: messages"] = [counts.sent.get("all-gather", 0), counts.sent["all-to-all"], counts.sent["all-reduce"]]
    step = explain_communication(lambda m, x: da.rollout(m, x, 5)[-1], parted, split)
    found["messages"] = [sorted(step.sent), step.total, list(parted.reach)]
    return found


def spectral_costs(model, shape, grid, axis, mesh):
    """Return a cost in parts and the whole one."""
    rng = np.random.default_rng(3)
    x_b, y = jnp.asarray(rng.normal(size=shape)), da.Observations(rng.normal(size=(2, *shape)), [1, 3], error=ONE)
    C = da.covariances.Matern(std=0.5, length=2.0, grid=grid)
    there = da.StrongConstraint4DVar(
        da.models.in_parts(model, x_b, mesh, axis), da.distribute(x_b, mesh, axis),
        da.covariances.in_parts(C, x_b, mesh, axis), y,
    )  # fmt: skip
    return there, da.StrongConstraint4DVar(model, x_b, C, y)


def spectral_windows() -> dict:
    mesh = da.device_mesh({"space": 4})
    flow = da.models.NavierStokes(viscosity=0.05, force=1.0, wavenumber=2, dt=0.05)
    there, here = spectral_costs(flow, (16, 16), da.grids.Grid(periodic=(True, True)), -2, mesh)
    gradient = jax.jit(jax.value_and_grad(lambda v, c: c(v)))
    v = jax.tree.map(lambda leaf: leaf + 0.1, here.control())
    found = {"gradient": apart(gradient(v, there), gradient(v, here))}
    found["sent"] = sorted(explain_communication(gradient, v, there).sent)
    there, here = spectral_costs(da.models.KuramotoSivashinsky(length=22.0), (32,), da.grids.Grid(), -1, mesh)
    found["minimum"] = apart(*(da.minimize(cost).state for cost in (there, here)))
    return found


@pytest.mark.slow
@pytest.mark.long
def test_strong_constraint_of_spectral_models_in_parts():
    found = on_devices(spectral_windows)
    assert found["gradient"] < 1e-11 and found["minimum"] < 1e-8, found
    assert "all-gather" not in found["sent"] and "all-to-all" in found["sent"], found


@pytest.mark.slow
@pytest.mark.long
def test_strong_constraint_and_hybrid_in_parts():
    found = on_devices(costs)
    for name in ("strong", "strong, halos", "hybrid", "EnVar, members and space"):
        assert found[name] < 1e-8, found
    assert found["EnVar, members and space"] < 1e-12, found
    gathered, turned, summed = found["EnVar: messages"]
    # A device has 4 members and half of the line: points forth, 18 of 17 frequencies of the half line in complex
    # numbers to and fro, points back; then the increment of its half is summed over members.
    assert gathered == 0 and turned == 4 * (2 * 32 * 8 + 2 * 18 * 16) / 2, found
    assert summed < 2 * 2 * 32 * 8, found
    assert found["messages"] == [["collective-permute"], 5 * (8 + 4) * 8, [8, 4]]


def weak_constraint() -> dict:
    mesh, model, x_b = da.device_mesh({"time": 4}), da.models.Lorenz96(), background()
    y = record(list(range(1, 17)))
    Q = da.covariances.Diagonal(std=0.3)
    cost = da.StateWeakConstraint4DVar(model, x_b, B, Q, y, steps=16, every=2)
    v = jax.tree.map(lambda leaf: leaf + 0.1, cost.control())
    split = {**v, "states": da.distribute(v["states"], mesh)}
    gradient = jax.jit(jax.value_and_grad(lambda v, c: c(v)))
    there, here = (da.minimize(cost, da.GaussNewton(), start=start) for start in (split, v))
    forced = da.WeakConstraint4DVar(model, x_b, B, Q, y, steps=16, every=2)
    w = jax.tree.map(lambda leaf: leaf + 0.1, forced.control())
    spread = {**w, "model_error": da.distribute(w["model_error"], mesh)}
    return {
        "gradient": apart(gradient(split, cost), gradient(v, cost)),
        "minimum": apart(there.state, here.state),
        "forcing form": apart(gradient(spread, forced), gradient(w, forced)),
    }


@pytest.mark.slow
@pytest.mark.long
def test_weak_constraint_in_parts_over_time():
    found = on_devices(weak_constraint)
    assert found["gradient"] < 1e-11 and found["forcing form"] < 1e-11
    assert found["minimum"] < 1e-8
