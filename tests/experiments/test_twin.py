"""What all twin experiments share: spin-up, truth, observing, random streams."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.experiments.framework.twin import Draw, observe, on_attractor, random_stream, states_at
from diffassim.models import Lorenz63, rollout
from diffassim.observations import Subsample

X0 = jnp.asarray([1.0, 2.0, 20.0])


def test_states_are_those_of_the_rollout_and_go_on_from_each_other():
    whole = rollout(Lorenz63(), X0, 12)
    np.testing.assert_allclose(states_at(Lorenz63(), X0, [0, 4, 12]), whole[jnp.asarray([0, 4, 12])], rtol=1e-14)
    halfway = on_attractor(Lorenz63(), X0, 4)
    np.testing.assert_allclose(on_attractor(Lorenz63(), halfway, 8), whole[12], rtol=1e-14)


def test_without_noise_the_observations_are_those_of_the_truth():
    truth = states_at(Lorenz63(), X0, [1, 2, 5])
    y = observe(jax.random.key(0), truth, [1, 2, 5], 1e-300, operator=Subsample(every=2))
    np.testing.assert_array_equal(y.values, truth[:, ::2])
    assert y.mask.all() and y.steps.tolist() == [1, 2, 5]


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 40), (0.5, 20), (0.26, 10), (0.001, 1)])
def test_the_observed_part_is_drawn_anew_each_time(fraction, count):
    truth = jnp.zeros((300, 40))
    y = observe(jax.random.key(1), truth, np.arange(300), 2.0, fraction=fraction)
    assert (y.mask.sum(axis=1) == count).all()
    assert np.unique(np.asarray(y.mask), axis=0).shape[0] > (1 if count < 40 else 0)
    np.testing.assert_allclose(y.mask.mean(axis=0), count / 40, atol=0.15)  # no place is preferred
    np.testing.assert_allclose(np.asarray(y.values)[np.asarray(y.mask)].std(), 2.0, rtol=0.12)


def test_streams_share_nothing():
    keys = [random_stream(seed, *numbers) for seed in (0, 1, 2, 2**33, 2**62, 2**63 - 9) for numbers in [
        (Draw.TRUTH,), (Draw.OBSERVATIONS, 0), (Draw.OBSERVATIONS, 1), (Draw.ANALYSIS,), (),
    ]]  # fmt: skip
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


def test_large_seeds_differ_in_single_precision_as_well():
    with jax.enable_x64(False):
        keys = [random_stream(seed) for seed in (0, 2**33, 2**62)]
        assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3
