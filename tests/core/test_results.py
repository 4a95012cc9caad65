"""Result codes: stable numbers, and advice for every one."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from diffassim.core.results import Result

# Stored in output files: a number never changes its meaning.
NUMBERS = {"CONVERGED": 0, "MAX_ITERATIONS": 1, "STALLED": 2, "NON_FINITE": 3, "LINEAR_SOLVE": 4, "INCONSISTENT": 5,
           "DIVERGED": 6, "COLLAPSED": 7}  # fmt: skip


def test_numbers_are_stable():
    assert {result.name: int(result) for result in Result} == NUMBERS


@pytest.mark.parametrize("result", Result)
def test_every_code_has_advice(result):
    assert result.advice.endswith(".") and len(result.advice) > 30
    assert Result.describe(int(result)) == f"{result.name}: {result.advice}"
    if result is not Result.CONVERGED:  # the others say what is wrong and what may help
        assert any(word in result.advice for word in ("raise", "Raise", "try", "check", "R or B is too small"))


def test_advice_is_different_for_each_code():
    assert len({result.advice for result in Result}) == len(Result)


def test_a_batch_is_described_by_its_worst_code():
    assert Result.describe(jnp.array([0, 3, 1])).startswith("NON_FINITE")


def test_an_unknown_code_is_refused():
    with pytest.raises(ValueError, match="17"):
        Result.describe(17)
