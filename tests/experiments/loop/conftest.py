"""Make the test loop known to the registry."""

from __future__ import annotations

import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

from diffassim.experiments import EXPERIMENTS
from tests.experiments.loop.level import LOCATION


@pytest.fixture(autouse=True)
def level_loop(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "level-loop", LOCATION)
