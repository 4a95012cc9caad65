"""The examples in the docstrings run, and everything public has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim

MODULES = sorted(m.name for m in pkgutil.walk_packages(diffassim.__path__, "diffassim."))
# Short examples may use these names without importing them, as a reader would expect.
KNOWN = {"jax": jax, "jnp": jnp, "np": np, "da": diffassim}


@pytest.mark.ci
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {**KNOWN, **vars(module)}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


def test_there_are_examples():
    found = [t for m in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(m), m) if t.examples]
    assert len(found) > 30


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented_and_exist(name):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public), f"{name}.__all__ lists {public}, which does not exist"
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"
