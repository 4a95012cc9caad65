"""What the README and the recipes say runs."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]


def blocks(language, file="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


@pytest.mark.ci
@pytest.mark.slow
def test_python_blocks_run_one_after_the_other():
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert jnp.isfinite(names["gradient"])
    spread = names["history"].info
    assert jnp.all(spread.analysis_spread < spread.background_spread)


@pytest.mark.ci
@pytest.mark.slow
def test_a_private_training_runs():
    code = blocks("python", "docs/privacy.md")[0]
    names = {}
    exec(compile(code, "privacy.md", "exec"), names)
    assert abs(float(names["found"].trained) - 3) < 0.1


def test_recipes_run_one_after_the_other(capsys):
    names: dict[str, object] = {}
    with jax.enable_x64(False):
        for code in blocks("python", "docs/recipes.md"):
            exec(compile(code, "recipes.md", "exec"), names)
    assert "passed" in capsys.readouterr().out


LIBRARIES = ("equinox", "diffrax", "optimistix", "torch")


def needed(code):
    return [name for name in LIBRARIES if re.search(rf"^import {name}\b", code, flags=re.MULTILINE)]


def run_own_parts(chosen):
    """Run blocks of the page in which libraries are told apart by their imports; they promote types as JAX does."""
    names: dict[str, object] = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code in chosen:
            exec(compile(code, "own_parts.md", "exec"), names)


@pytest.mark.ci
@pytest.mark.slow
def test_own_parts_run_one_after_the_other(capsys):
    run_own_parts([code for code in blocks("python", "docs/own_parts.md") if not needed(code)])
    printed = capsys.readouterr().out
    assert printed.count("model test over 1 step(s): passed") == 2 and "covariance test of Smooth passed" in printed
    assert "FAILED" not in printed


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of PyTorch's own forward mode
@pytest.mark.parametrize("library", LIBRARIES)
def test_own_parts_run_with_a_library(library, capsys):
    pytest.importorskip(
        library, reason=f"the blocks of docs/own_parts.md with {library} need it: pip install {library}"
    )
    first, *others = blocks("python", "docs/own_parts.md")
    chosen = [code for code in others if library in needed(code)]
    assert chosen
    run_own_parts([first, *chosen])
    assert "FAILED" not in capsys.readouterr().out


def test_the_first_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    main_job, tests = (block.strip() for block in blocks("bash")[:2])
    assert main_job == 'pip install ".[data]" && diffassim run fulda'
    assert tests == 'pip install ".[test]" && pytest'
    for command in (main_job, tests):
        install, _, run = command.partition(" && ")
        assert install.removeprefix("pip install ") in ci and run in ci
