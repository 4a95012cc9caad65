"""What is said of memory before a run agrees with what the compiled program asks for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import diffassim as da
from diffassim.diagnostics import explain_communication, explain_memory
from tests.many_devices import on_devices

N = 1000
ONE = da.covariances.Diagonal(std=1.0)
Y = da.Observations(jnp.zeros((4, N)), [50, 100, 150, 200], error=ONE)
COST = da.StrongConstraint4DVar(da.models.Lorenz96(), jnp.ones(N), ONE, Y)


def compiled_bytes(cost):
    gradient = jax.jit(jax.grad(lambda cost, v: cost(v), argnums=1))
    return gradient.lower(cost, cost.control()).compile().memory_analysis().temp_size_in_bytes


def test_the_adjoint_takes_what_was_said():
    budgets = explain_memory(COST).budgets
    whole = compiled_bytes(COST.replace(segment=COST.steps))
    assert budgets[1] == pytest.approx(whole, rel=0.1)
    assert budgets[1] > budgets[2] > budgets[3] > budgets[4]
    # Copies of the observed rows and of the state come on top of the checkpoints.
    assert budgets[3] < compiled_bytes(COST) < 3 * budgets[3]


def test_advice_depends_on_what_dominates():
    assert "linearized model dominates" in str(explain_memory(COST))
    assert "GaussNewton does not store" in str(
        explain_memory(COST.replace(observations=Y.replace(steps=[1, 2, 3, 20_000]), steps=20_000))
    )
    assert "memory = 1000000" in str(explain_memory(COST.replace(memory=1_000_000)))


def test_a_cycle_names_what_dominates():
    members = jax.ShapeDtypeStruct((20, N), jnp.float64)
    taper = da.ensemble.GaspariCohn(3.0)
    report = explain_memory(da.LETKF(localization=taper), da.models.Lorenz96(), members, Y)
    assert report.parts["ensemble (prior, posterior, forecast)"] == 3 * 20 * N * 8
    assert "local analyses" in next(iter(report.parts))
    kept = explain_memory(da.ETKF(), da.models.Lorenz96(), members, Y, members=True)
    assert kept.parts["members of all times"] == 4 * 20 * N * 8
    assert "cycle_in_chunks" in str(kept)


def test_what_is_neither_is_named():
    with pytest.raises(da.ConfigurationError, match="neither a cost"):
        explain_memory(da.GaussNewton())
    with pytest.raises(da.ConfigurationError, match="explain_memory\\(method"):
        explain_memory(da.ETKF())


def in_parts() -> dict:
    """Return what is said of an analysis in parts, what its program asks for, and what known programs send."""
    mesh, whole = da.device_mesh(), jax.sharding.PartitionSpec("device")
    members = 8 + jax.random.normal(jax.random.key(0), (8, 8192))
    y = da.Observations(jnp.full((1, 4096), 8.0), [0], da.observations.Subsample(every=2), ONE)
    split, letkf = da.distribute(members, mesh), da.LETKF(localization=da.ensemble.GaspariCohn(3.0))
    method = letkf.prepared(split, (y,))[0]
    program = jax.jit(lambda m, x, y: m.analyze(None, x, y)[0]).lower(method, split, y).compile().memory_analysis()

    def spread(function):
        return jax.shard_map(function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)

    def turned(x):
        return jax.lax.fori_loop(
            0, 5, lambda _, x: jax.lax.ppermute(x, "device", [(i, (i + 1) % 4) for i in range(4)]), x
        )

    x = da.distribute(jnp.ones(400), mesh)
    return {
        "said": explain_memory(method, None, split, y).total,
        "alone": explain_memory(letkf.prepared(members, (y,))[0], None, members, y).total,
        "needed": program.temp_size_in_bytes + program.argument_size_in_bytes + program.output_size_in_bytes,
        "sums": dict(explain_communication(spread(lambda x: jax.lax.psum(x, "device")), x).sent),
        "turns": dict(explain_communication(spread(turned), x).sent),
        "whole": dict(explain_communication(spread(lambda x: jax.lax.all_gather(x, "device").sum(0)), x).sent),
        "swapped": dict(
            explain_communication(
                spread(lambda x: jax.lax.all_to_all(x.reshape(4, 25), "device", 0, 0).ravel()), x
            ).sent
        ),
    }


@pytest.mark.slow
@pytest.mark.long
def test_memory_and_messages_of_a_device():
    found = on_devices(in_parts)
    assert 0.4 < found["said"] / found["needed"] < 2.5, found
    assert found["said"] < 0.5 * found["alone"]  # a block of look-ups and the record do not shrink with the devices
    # Parts of 100 numbers in double precision: b = 800 bytes each, 3/4 of what is whole goes to others.
    assert found["sums"] == {"all-reduce": 2 * 800 * 3 / 4}
    assert found["turns"] == {"collective-permute": 5 * 800}
    assert found["whole"] == {"all-gather": 4 * 800 * 3 / 4}
    assert found["swapped"] == {"all-to-all": 800 * 3 / 4}
