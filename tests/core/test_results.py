"""Result codes: stable numbers, an order of severity that is not theirs, and advice for every one."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

from diffassim.core.results import Result

# Stored in output files: a number never changes its meaning.
NUMBERS = {"CONVERGED": 0, "MAX_ITERATIONS": 1, "STALLED": 2, "NON_FINITE": 3, "LINEAR_SOLVE": 4, "INCONSISTENT": 5,
           "DIVERGED": 6, "COLLAPSED": 7}  # fmt: skip
WORST_FIRST = ["NON_FINITE", "DIVERGED", "COLLAPSED", "STALLED", "MAX_ITERATIONS", "LINEAR_SOLVE", "INCONSISTENT",
               "CONVERGED"]  # fmt: skip

# What the advice must name: how the computation ended, and something that a person can do about it.
SAYS = {
    "CONVERGED": ("below the tolerance", "members are finite"),
    "MAX_ITERATIONS": ("iteration limit", "raise the limit"),
    "STALLED": ("no step lowers the cost", "try float64"),
    "NON_FINITE": ("not finite", "check_model"),
    "LINEAR_SOLVE": ("linear solve", "Raise its iteration limit"),
    "INCONSISTENT": ("far above what the observation errors allow", "R or B is too small"),
    "DIVERGED": ("not finite", "try more members"),
    "COLLAPSED": ("one particle", "try more particles"),
}


def test_numbers_are_stable():
    assert {result.name: int(result) for result in Result} == NUMBERS


@pytest.mark.parametrize("result", Result)
def test_advice_names_the_ending_and_a_way_out(result):
    assert all(words in result.advice for words in SAYS[result.name])
    assert Result.describe(int(result)) == f"{result.name}: {result.advice}"


def test_advice_is_different_for_each_code():
    assert len({result.advice for result in Result}) == len(Result)


@pytest.mark.parametrize(("worse", "better"), list(itertools.pairwise(WORST_FIRST)))
def test_the_worst_of_two_goes_by_severity(worse, better):
    for pair in ([NUMBERS[worse], NUMBERS[better]], [NUMBERS[better], NUMBERS[worse]]):
        assert Result.worst(pair).name == worse
        assert Result.describe(jnp.array(pair)).startswith(worse)


def test_the_worst_code_inside_of_jit_is_the_worst():
    codes = jnp.array(list(itertools.permutations(range(len(Result)), 2)))
    found = jax.jit(jax.vmap(Result.worst_code))(codes)
    assert found.tolist() == [int(Result.worst(pair)) for pair in codes]


@pytest.mark.parametrize(
    ("codes", "text"), [([0, 5], None), ([0, 6], "DIVERGED (1 of 2)"), ([1, 3, 3], "NON_FINITE (2 of 3)")]
)
def test_failures_of_a_batch_are_counted(codes, text):
    found = Result.describe_failures(codes)
    assert found is None if text is None else found.startswith(text)


@pytest.mark.parametrize("codes", [17, [], -1])
def test_what_is_no_code_is_refused(codes):
    with pytest.raises(ValueError, match=r"17|-1|empty"):
        Result.describe(codes)
