"""A network in the evolution: kept where departures go on in a way that no regression knows, and only there."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pandas")

import pandas as pd

from diffassim.experiments.stations.network import Network
from diffassim.experiments.stations.neural_evolution import NeuralEvolution, learn_neural_evolution
from diffassim.experiments.stations.record import Record
from diffassim.experiments.stations.regional_filter import learn_regional_filter
from diffassim.experiments.stations.regions import whole
from diffassim.models.base import Variable

STATIONS, STEPS = 4, 900
PLACES = np.full((STATIONS, 3), np.nan)


def departures(bent: float, seed: int = 1) -> np.ndarray:
    """Return stations that swing by a tent map as far as bent, and decay otherwise; one value in ten missing."""
    rng = np.random.default_rng(seed)
    x = np.zeros((STEPS, STATIONS))
    for k in range(1, STEPS):
        x[k] = bent * (1.2 - 1.6 * np.abs(x[k - 1])) + (1 - bent) * 0.8 * x[k - 1] + 0.1 * rng.normal(size=STATIONS)
    x = (x - x.mean()) / x.std()
    return np.where(rng.uniform(size=x.shape) < 0.1, np.nan, x)


@pytest.mark.slow
def test_a_network_learns_a_bent_evolution_and_is_kept():
    x = departures(1.0)
    linear, _ = learn_regional_filter(x[:700], PLACES, whole(STATIONS))
    neural, told = learn_neural_evolution(linear, x[:700], STATIONS, seed=0)
    assert isinstance(neural.filters[0].evolution, NeuralEvolution) and told.startswith("Neural evolution")
    density = [each.run(x).log_likelihood[700:].mean() for each in (neural, linear)]  # which neither has seen
    assert density[0] > density[1] + 2
    variance = [np.trace(each.filters[0].error) for each in (neural, linear)]
    assert variance[0] < 0.3 * variance[1]


@pytest.mark.slow
def test_a_network_that_does_not_help_is_left_out():
    x = departures(0.0)
    linear, _ = learn_regional_filter(x, PLACES, whole(STATIONS))
    found, told = learn_neural_evolution(linear, x, STATIONS, seed=0)
    assert found is linear and told.startswith("Linear evolution") and "log density changes by -" in told


@pytest.mark.slow
def test_a_learned_network_comes_back_from_its_arrays():
    x = departures(1.0)[:500]
    times = pd.date_range("2020-01-01", periods=500, freq="D", tz="UTC")
    record = Record(times, tuple("abcd"), PLACES, (Variable("t", "K", ()),), x[:, :, None])
    found = Network.learn(record, 400, (False,), (1,), neural_seed=0)
    again = Network.from_arrays(found.to_arrays())
    assert isinstance(again.filter.filters[0].evolution, NeuralEvolution) and again.told == found.told
    np.testing.assert_array_equal(found.filtered(record, 400, 500).mean, again.filtered(record, 400, 500).mean)
