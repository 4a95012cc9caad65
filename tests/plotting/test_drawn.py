"""Figures of ensembles, departures, searches and impacts show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from diffassim.core.errors import ShapeError
from diffassim.plotting.ensembles import draw_pit_histogram, draw_rank_histogram
from diffassim.plotting.impact import draw_impact
from diffassim.plotting.innovations import block_statistics, draw_departures
from diffassim.plotting.learning import draw_learning_curves
from diffassim.plotting.searches import draw_cost_history
from diffassim.plotting.style import figure, style


@pytest.fixture
def axes():
    with style():
        drawn = figure()
        yield drawn.subplots()
        drawn.canvas.draw()


def band(axes):
    """Return lower and upper bound of the last band that was drawn."""
    y = axes.patches[-1].get_extents().transformed(axes.transData.inverted()).get_points()[:, 1]
    return float(y.min()), float(y.max())


def test_bars_of_reliable_forecasts_lie_within_the_band_nine_times_of_ten(axes):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        axes.clear()
        draw_pit_histogram(axes, rng.uniform(size=(50, 20)))
        low, high = band(axes)
        heights = [bar.get_height() for bar in axes.patches[:10]]
        np.testing.assert_allclose(np.mean(heights), 1.0, rtol=1e-12)
        inside += [low <= height <= high for height in heights]
    assert 0.85 < np.mean(inside) < 0.95


def test_the_band_of_ranks_is_that_of_a_binomial_law(axes):
    draw_rank_histogram(axes, np.ones(11), count=2000)
    half = 1.6448536269514722 * np.sqrt(10 / 2000)  # sqrt(M p (1 - p)) / (M p) with p = 1/11
    np.testing.assert_allclose(band(axes), (1 - half, 1 + half), rtol=1e-9)
    axes.clear()
    draw_rank_histogram(axes, np.ones(11))
    assert len(axes.patches) == 11  # none without a number


def test_missing_probabilities_are_left_out(axes):
    draw_pit_histogram(axes, [0.05, np.nan, 0.95, 1.0], bins=2)
    assert [bar.get_height() for bar in axes.patches[:2]] == [2 / 3, 4 / 3]
    axes.clear()
    draw_pit_histogram(axes, [np.nan])
    assert all(bar.get_height() == 0 for bar in axes.patches)


def test_departures_are_averaged_over_blocks(axes):
    d = np.array([[1.0, 3.0], [np.nan, np.nan], [2.0, np.nan], [-2.0, 4.0]])
    at, count, mean, size = block_statistics(d, 2)
    assert (at.tolist(), count.tolist(), mean.tolist()) == ([0.5, 2.5], [2, 3], [2.0, 4 / 3])
    np.testing.assert_allclose(size**2, [5.0, 8.0], rtol=1e-12)
    draw_departures(axes, np.arange(4.0), {"one": d, "other": 2 * d}, blocks=2)
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["other, size"], 2 * drawn["one, size"], rtol=1e-12)
    assert block_statistics(np.full((3, 2), np.nan), 2)[0].size == 0


def test_costs_end_where_searches_end(axes):
    J = np.array([[8.0, 4.0, 2.0, np.nan], [6.0, 3.0, np.nan, np.nan], [np.nan] * 4])
    draw_cost_history(axes, J, np.array([4, 3, 1]))
    ends, median = axes.lines[-3], axes.lines[-2]
    assert ends.get_xydata().tolist() == [[2.0, 1.0], [1.0, 2.0]]
    np.testing.assert_allclose(median.get_ydata(), [4.0, 2.0, 1.5], rtol=1e-12)  # an ended search keeps its cost
    axes.clear()
    draw_cost_history(axes, J[0])
    assert axes.lines[-1].get_xydata().tolist() == [[2.0, 2.0]]
    axes.clear()
    draw_cost_history(axes, J[2])
    assert not axes.lines


def test_impacts_are_sorted_and_harm_is_hatched(axes):
    draw_impact(axes, ["a", "b", "c"], [-1.0, 2.0, -3.0], [0.5, np.nan, 0.75])
    assert [bar.get_width() for bar in axes.patches] == [2.0, -1.0, -3.0]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [True, False, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "c"]
    assert [text.get_text() for text in axes.texts] == ["50 %", "75 %"]


def test_learning_curves_are_means_with_intervals_by_student_and_the_optimum(axes):
    curves = {"a": np.array([[1.0, 2.0, np.nan], [3.0, 4.0, np.nan]]), "b": np.array([[0.0, 5.0, 6.0]])}
    draw_learning_curves(axes, curves, optimum=7.0, colors={"b": "red"})
    best, a, b = axes.lines
    np.testing.assert_array_equal(best.get_ydata(), [7.0, 7.0])
    np.testing.assert_array_equal(a.get_xydata(), [[0, 2], [1, 3]])  # what is missing at the end is not part of it
    np.testing.assert_array_equal(b.get_xydata(), [[0, 0], [0.5, 5], [1, 6]])
    assert b.get_color() == "red" and len(axes.collections) == 1  # a single training has no band
    y = axes.collections[0].get_paths()[0].vertices[:, 1]
    half = 12.7062 * 2**0.5 / 2**0.5  # quantile of one degree of freedom times the error of the mean of two
    np.testing.assert_allclose([y.min(), y.max()], [2 - half, 3 + half], rtol=1e-5)
    with pytest.raises(ShapeError, match="trainings, parts"):
        draw_learning_curves(axes, {"c": np.zeros(3)})
