"""A small experiment for the framework's tests, and a command line that knows it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from diffassim.experiments import EXPERIMENTS
from diffassim.experiments.framework.base import Configuration, Experiment, Results, quantity, score_rows
from diffassim.plotting.style import figure

LOCATION = "tests.experiments.countdown:Countdown"


class CountdownConfiguration(Configuration):
    chunks: Annotated[int, Field(ge=1)] = 4
    length: Annotated[float, quantity("days"), Field(gt=0)] = 3.0
    limit: Annotated[float, quantity("days")] = 10.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length > self.limit:
            raise ValueError(f"length: the window of {self.length} days is longer than limit = {self.limit} days")
        return self


class Countdown(Experiment):
    """A chaotic map with random forcing: any slip in the carry shows in every later number."""

    name = "countdown"
    summary = "Counts chunks."
    configuration = CountdownConfiguration

    def chunks(self, config):
        return config.chunks

    def start(self, config):
        disturb("start")
        return {"nested": {"x": np.asarray(0.3, config.dtype)}, "counts": np.zeros(2, np.int32)}

    def advance(self, config, carry, index):
        disturb(str(index))
        noise = np.random.default_rng([config.seed, index]).uniform(0, 1e-3, 5).astype(config.dtype)
        x, rows = carry["nested"]["x"], []
        for value in noise:
            x = np.asarray(3.9 * x * (1 - x) * (1 - value), config.dtype)
            rows.append(x)
        times = ("time", index * 5.0 + np.arange(5.0), {"units": "days since 2000-01-01"})
        dataset = xr.Dataset({"x": ("time", np.array(rows)), "level": ((), 1.0)}, {"time": times})
        return {"nested": {"x": x}, "counts": carry["counts"] + np.asarray([1, 2], np.int32)}, dataset

    def finish(self, config, dataset):
        mean = float(dataset["x"].mean())
        drawn = figure(2.0, 2.0)
        drawn.subplots().plot(dataset["x"])
        return Results(
            score_rows([("map", "x", 0.0, "mean", mean, dataset.sizes["time"])]), {"x": drawn}, f"x {mean!r}\n"
        )


def disturb(place: str) -> None:
    """Do what the environment asks for at this place: stop in various ways, or wait for a signal."""
    if os.environ.get("DISTURB_AT") != place:
        return
    match os.environ["DISTURB_HOW"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "interrupt":
            raise KeyboardInterrupt
        case "wait":
            Path(os.environ["DISTURB_FLAG"]).touch()
            time.sleep(60)


if __name__ == "__main__":
    from diffassim.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    EXPERIMENTS["countdown"] = LOCATION
    main(sys.argv[1:])
