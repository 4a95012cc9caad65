"""A small experiment for the framework's tests, and a command line that knows it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core.finite_parts import require_finite_parts
from diffassim.core.processes import rank
from diffassim.core.sharding import gathered
from diffassim.experiments import EXPERIMENTS
from diffassim.experiments.framework.base import Configuration, Experiment, Results, quantity, score_rows
from diffassim.plotting.style import figure

LOCATION = "tests.experiments.countdown:Countdown"
SPREAD_LOCATION = "tests.experiments.countdown:SpreadCountdown"


class CountdownConfiguration(Configuration):
    chunks: Annotated[int, Field(ge=1)] = 4
    chains: Annotated[int, Field(ge=1)] = 1
    file: Path | None = None
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
        return config.chains * config.chunks

    def chains(self, config):
        return tuple(range(k * config.chunks, (k + 1) * config.chunks) for k in range(config.chains))

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


class SpreadCountdown(Countdown):
    """The same for many numbers at once, which lie in parts on several processes."""

    name = "spread-countdown"
    size = 12

    def chains(self, config):
        return (range(self.chunks(config)),)

    def axes(self, config):
        return {"nested.x": 0}

    def start(self, config):
        disturb("start")
        return {"nested": {"x": np.linspace(0.2, 0.4, self.size).astype(config.dtype)}, "count": np.zeros(1, np.int32)}

    def advance(self, config, carry, index):
        disturb(str(index))
        x = jnp.asarray(carry["nested"]["x"])
        x, mean = _iterated(x)
        if os.environ.get("SPOIL_AT") == str(index):
            x = x.at[7].set(jnp.nan)
        require_finite_parts(f"chunk {index}", {"x": x})
        dataset = xr.Dataset({"x": (("time", "place"), gathered(x)[None]), "mean": ("time", gathered(mean)[None])})
        return {"nested": {"x": x}, "count": carry["count"] + 1}, dataset.assign_coords(time=[float(index)])

    def finish(self, config, dataset):
        last = float(dataset["mean"][-1])
        return Results(score_rows([("map", "x", 0.0, "mean", last, dataset.sizes["time"])]), {}, f"mean {last!r}\n")


@jax.jit
def _iterated(x):
    for _ in range(3):
        x = 3.9 * x * (1 - x)
    return x, jnp.mean(x)


def disturb(place: str) -> None:
    """Do what the environment asks for at this place: stop in various ways, or wait for a signal."""
    if "SLOW" in os.environ:
        time.sleep(float(os.environ["SLOW"]))
    if os.environ.get("DISTURB_AT") != place or os.environ.get("DISTURB_RANK", str(rank())) != str(rank()):
        return
    match os.environ["DISTURB_HOW"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill soon":  # in the middle of whatever comes then: computing, writing, renaming
            delay = float(os.environ["DISTURB_DELAY"])
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        case "fail":
            raise ValueError("no number here")
        case "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        case "interrupt":
            raise KeyboardInterrupt
        case "wait":
            Path(os.environ["DISTURB_FLAG"]).touch()
            time.sleep(60)


if __name__ == "__main__":
    from diffassim.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    EXPERIMENTS["countdown"] = LOCATION
    EXPERIMENTS["spread-countdown"] = SPREAD_LOCATION
    main(sys.argv[1:])
