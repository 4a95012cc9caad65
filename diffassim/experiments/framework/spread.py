"""Runs in which all processes compute every chunk together, each with its part of the arrays."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.sharding import device_mesh, distribute, sharding_for
from diffassim.experiments.framework.base import Experiment
from diffassim.experiments.framework.run_directory import RunDirectory

__all__ = ["advance_spread", "placed"]


def placed(experiment: Experiment, config: Any, carry: dict[str, Any]) -> dict[str, Any]:
    """Return a carry with some of its arrays in parts on the devices of all processes.

    Args:
        experiment: says which axis of which array is split (`Experiment.axes`).
        config: its configuration.
        carry: whole arrays, the same in all processes, or arrays that lie in parts already.

    Raises:
        ConfigurationError: if the devices do not divide an axis.
    """
    mesh, axes = device_mesh(), experiment.axes(config)

    def placed_below(below: dict[str, Any], above: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in below.items():
            path = above + key
            if isinstance(value, dict):
                found[key] = placed_below(value, f"{path}.")
            else:
                array = value if isinstance(value, jax.Array) else np.asarray(value)
                found[key] = distribute(array, mesh, axes[path], name=path) if path in axes else array
        return found

    try:
        return placed_below(carry, "")
    except ShapeError as error:
        raise ConfigurationError(f"{experiment.name}: {error}") from None


def advance_spread(
    experiment: Experiment, config: Any, directory: RunDirectory, watch: Any
) -> tuple[dict[str, float], bool]:
    """Compute the chunks that are missing.

    Returns:
        Seconds by stage, and whether the run was stopped.
    """
    mesh, axes = device_mesh(), experiment.axes(config)
    finished, carry = processes.together(
        "reading the checkpoint",
        lambda: directory.read_spread(
            lambda path, shape: sharding_for(shape, mesh, axes[path], name=path) if path in axes else None
        ),
    )
    carry = placed(experiment, config, carry)
    count, seconds = experiment.chunks(config), dict[str, float]()
    for index in range(finished, count):
        stage, before = experiment.stage(config, index), time.monotonic()
        watch.show(index, count, stage)
        carry, dataset = experiment.advance(config, carry, index)
        if processes.rank() == 0:
            directory.write_output(index, dataset)
        directory.write_spread(carry)
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - before
        # All of them stop at the same chunk: otherwise those that go on would wait for the others.
        if "stop" in processes.exchange("whether to stop", "stop" if watch.stopped else ""):
            return seconds, True
    directory.write_fields(experiment.fields(config, carry))
    return seconds, False
