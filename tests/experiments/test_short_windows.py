"""Rows on short windows: their data, their network, and what distillation, transfer and an adversary are held to."""

from __future__ import annotations

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pandas")

from diffassim.experiments.learning import short_windows
from diffassim.experiments.learning.bench import Settings
from diffassim.experiments.learning.rows import adversarial, distillation, transfer, transfer_tenth
from diffassim.learned import Network
from diffassim.models import Lorenz96, rollout

KEY = jax.random.key(0)


def normal_windows(key, count, forcing=8.0):
    shape = (count, short_windows.TIMES, short_windows.N)
    return short_windows.CENTER + short_windows.SPREAD * jax.random.normal(key, shape, jnp.float32)


def without_training(loss, start, data, **options):
    return types.SimpleNamespace(trained=start, state=types.SimpleNamespace(step=0))


@pytest.fixture
def quick(monkeypatch):
    """Make rows small, and trainings end before they begin."""
    for row in (distillation, transfer, adversarial):
        monkeypatch.setattr(row, "train", without_training)
    for row in (distillation, transfer, transfer_tenth, adversarial):
        monkeypatch.setattr(row, "draw", normal_windows)
        monkeypatch.setattr(row, "TEST", 6)
    monkeypatch.setattr(distillation, "UNKNOWN", 6)
    monkeypatch.setattr(distillation, "KNOWN", 6)
    monkeypatch.setattr(transfer, "WINDOWS", 6)
    monkeypatch.setattr(transfer_tenth, "WINDOWS", 6)
    monkeypatch.setattr(adversarial, "WINDOWS", 6)


def test_windows_are_trajectories_of_their_forcing():
    for forcing in (8.0, 12.0):
        windows = short_windows.draw(KEY, 60, forcing)
        assert windows.shape == (60, short_windows.TIMES, short_windows.N)
        model = Lorenz96(forcing=jnp.float32(forcing), dt=short_windows.DT)
        np.testing.assert_allclose(rollout(model, windows[7, 0], 4), windows[7], rtol=1e-4, atol=1e-4)
    values = short_windows.observe(windows, KEY)
    seen = ~np.isnan(values)
    assert abs(seen.mean() - short_windows.SHARE) < 0.02
    assert abs(np.std((values - windows)[seen]) - 1) < 0.03


def test_the_network_is_the_same_everywhere_and_sees_nothing_where_nothing_is_observed():
    fresh = short_windows.untrained(4, 1, 0)
    network = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(KEY, w.shape, w.dtype), fresh)
    values = short_windows.observe(normal_windows(KEY, 1)[0], KEY)
    found = network(values)
    np.testing.assert_allclose(network(jnp.roll(values, 3, axis=1)), jnp.roll(found, 3), rtol=1e-5, atol=1e-5)
    assert float(jnp.std(found - jnp.mean(found))) > 0.01
    mask = ~jnp.isnan(values)
    np.testing.assert_array_equal(network.state(jnp.where(mask, values, 1e6), mask), found)


@pytest.mark.slow
def test_the_student_is_held_to_the_teacher_only_where_it_costs_a_tenth(quick, monkeypatch):
    teacher, student, alone = distillation.run(Settings())
    assert abs(student.aim - distillation.LOSS * teacher.value) < 1e-12 and alone.aim is None
    share = float(re.search(r"([0-9.]+)% of the teacher", student.note)[1])
    assert 0 < share <= 100 * distillation.COST
    monkeypatch.setattr(distillation, "STUDENT", distillation.TEACHER)
    assert distillation.run(Settings())[1].aim == 0.0  # cannot be reached


@pytest.mark.slow
def test_fine_tuning_with_a_tenth_is_held_to_scratch_with_all(quick, monkeypatch):
    monkeypatch.setattr(transfer, "SHARES", (0.1, 1.0))
    scores = {score.method: score for score in transfer.run(Settings())}
    aims = {name: score.aim for name, score in scores.items() if score.aim is not None}
    assert aims == {"10%, fine-tuned": scores["100%, from scratch"].value}
    assert set(scores) >= {"source, as it is", "10%, distilled", "100%, distilled"}


def test_the_tenth_is_tuned_from_the_source_and_held_to_all_from_scratch(quick, monkeypatch):
    seen = []

    def noted(loss, start, data, *, validation=None, **options):
        seen.append((options["name"], len(data), 0 if validation is None else len(validation), start))
        moved = jax.tree.map(lambda w: w + 0.01 * len(seen) ** 2 * jnp.ones_like(w), start)
        return types.SimpleNamespace(trained=moved)

    monkeypatch.setattr(transfer, "train", noted)
    source, tuned, scratch, ratio = transfer_tenth.run(Settings())
    assert [(name, count, kept) for name, count, kept, _ in seen] == [
        ("the source", 6, 0), ("10% fine-tuned", 160, 320), ("all from scratch", 1_600, 400)
    ]  # fmt: skip
    first, second, third = (jax.tree.leaves(start) for *_, start in seen)
    assert all(np.array_equal(a, c) for a, c in zip(first, third, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert ratio.value == tuned.value / scratch.value and ratio.aim == 1.0
    assert len({source.value, tuned.value, scratch.value}) == 3


def test_the_worst_errors_are_as_large_as_the_errors_of_observations(quick):
    truth = normal_windows(KEY, 1)[0]
    values = short_windows.observe(truth, KEY)
    here = adversarial.sample(values, truth[-1])

    def newest(w, seen):
        """Return the sum of the last values, which errors move as far as they are large."""
        return w * seen[:, short_windows.TIMES - 1 : short_windows.TIMES]

    linear = short_windows.WindowNetwork(Network(newest, jnp.ones((), jnp.float32)))
    worst = adversarial.Adversarial(adversarial.error, steps=adversarial.TEST_ASCENT).worst(linear, here, KEY)
    moved = jnp.where(here.window.mask, worst.window.values - here.window.values, 0)
    count = float(jnp.sum(here.window.mask))
    assert 0.9 * count < float(jnp.sum(moved**2)) < 1.001 * count
    assert float(jnp.sum(moved[-1] ** 2)) > 0.9 * count  # all of it where it does harm
    assert float(adversarial.error(linear, worst, None)) > 1.5 * float(adversarial.error(linear, here, None))


def test_training_against_errors_is_held_to_half_the_loss_and_nearly_all_of_the_skill(quick, monkeypatch):
    pairs = {0.0: (1.0, 2.0), 0.05: (1.01, 1.8), 0.1: (1.015, 1.7), 0.25: (1.1, 1.4), None: (0.8, 1.9)}
    nets = {share: types.SimpleNamespace(share=share) for share in pairs if share is not None}
    monkeypatch.setattr(adversarial, "trained", lambda *_: (nets[0.0], {s: nets[s] for s in adversarial.SHARES}))
    monkeypatch.setattr(adversarial, "skills", lambda net, *_: pairs[getattr(net, "share", None)])
    monkeypatch.setattr(adversarial, "rmse", lambda net, *_: pairs[net.share][0])
    monkeypatch.setattr(adversarial, "worse", lambda *_: "no")
    monkeypatch.setattr(adversarial, "bounds", lambda *_: [])
    scores = adversarial.run(Settings())
    assert [score.kind for score in scores] == ["learned"] * 8 + ["classical"] * 2 + ["learned"] * 2
    assert [score.aim for score in scores[:-2]] == [None] * 10
    assert [(score.value, score.aim) for score in scores[-2:]] == [(1.015, 1.02), (1.7, 1.5)]
    assert scores[1].note == "loss of skill 1.000" and scores[-1].note == "10%; no"
    monkeypatch.setattr(adversarial, "rmse", lambda net, *_: 1.0 + net.share)  # none keeps its skill
    assert adversarial.run(Settings())[-1].value == pairs[0.05][1]


@pytest.mark.slow
def test_more_starts_find_no_lesser_errors_and_every_one_is_within_the_ball(quick):
    network = jax.tree.map(
        lambda w: w + 0.2 * jax.random.normal(KEY, w.shape, w.dtype), short_windows.untrained(4, 1, 0)
    )
    windows = normal_windows(KEY, 3)
    values = short_windows.observe(windows, KEY)
    found = [adversarial.attacked(network, values, windows, KEY, steps=5, rate=2.0, starts=starts) for starts in (1, 3)]
    for moved in found:
        np.testing.assert_array_equal(np.isnan(moved), np.isnan(values))
        sizes = np.nansum((np.asarray(moved) - np.asarray(values)) ** 2, axis=(1, 2)) / np.sum(
            ~np.isnan(np.asarray(values)), axis=(1, 2)
        )
        assert float(sizes.max()) < 1.001 and float(sizes.min()) > 0.9
        assert short_windows.rmse(network, moved, windows) > short_windows.rmse(network, values, windows)


@pytest.mark.slow
def test_the_bound_is_not_below_the_best_clean_error(quick, monkeypatch):
    monkeypatch.setattr(adversarial, "LINEAR", 2)
    climate, flow = adversarial.bounds(KEY, 0.1)  # which nobody reaches
    for score in (climate, flow):
        limit = float(re.search(r"clean ([0-9.]+);", score.note)[1])
        assert score.value > limit > 0.1
