"""Make the test experiment known to the registry."""

from __future__ import annotations

import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

from diffassim.experiments import EXPERIMENTS
from tests.experiments.countdown import LOCATION


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "countdown", LOCATION)
