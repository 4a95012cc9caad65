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
def test_recipes_run_one_after_the_other(capsys):
    names: dict[str, object] = {}
    with jax.enable_x64(False):
        for code in blocks("python", "docs/recipes.md"):
            exec(compile(code, "recipes.md", "exec"), names)
    assert "passed" in capsys.readouterr().out


def test_the_first_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    main_job, tests = (block.strip() for block in blocks("bash")[:2])
    assert main_job == 'pip install ".[data]" && diffassim run fulda'
    assert tests == 'pip install ".[test]" && pytest'
    for command in (main_job, tests):
        install, _, run = command.partition(" && ")
        assert install.removeprefix("pip install ") in ci and run in ci
