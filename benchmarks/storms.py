"""Valves of storm sewers (pystorms, a separate program) by rules, and by settings and feedback from a search."""

from __future__ import annotations

import dataclasses
import functools
import json as json_
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from benchmarks.harness import Record, report

SERVER = Path(__file__).parent / "storms_server.py"
REQUIREMENTS = ("pystorms==1.0.0",)
FOLDER = Path(tempfile.gettempdir()) / "diffassim-pystorms"

Policy = Callable[[np.ndarray], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What a policy may know of a scenario, and what is known of its cost.

    Args:
        gravity: in the units of its depths.
        orifice: area times coefficient of a valve.
        outflow: total through all valves at which equal filling aims.
        first_hours: after which nothing floods any more; a search plays only these.
        known: costs by policy, as published or found before.
    """

    gravity: float
    orifice: float
    outflow: float
    first_hours: float
    known: dict[str, float]


SCENARIOS = {
    "theta": Scenario(9.81, 1.0, 0.45, math.inf, {"uncontrolled": 1630.34, "rule": 1125.82, "equal filling": 0.0}),
    "gamma": Scenario(
        32.2, 0.65, 100.0, 12.0,
        {"uncontrolled": 400_221_923, "equal filling": 402_903_111, "constant settings, searched for": 341.1e6,
         "feedback, searched for": 320e6},
    ),
}  # fmt: skip


def uncontrolled(depths: np.ndarray) -> None:
    """Leave the valves as they are."""


def rule(depths: np.ndarray) -> np.ndarray:
    """Open a valve to a half above a depth of a half."""
    return np.where(depths > 0.5, 0.5, 0.0)


@dataclasses.dataclass(frozen=True)
class EqualFilling:
    """Share an outflow among the basins that are fuller than the mean; a valve passes its part, by Torricelli's law.

    Args:
        scenario: of which gravity, orifice and outflow are taken.
        deepest: depths at which basins are full.
        tolerance: filling below the mean down to which a basin has a part, against switching back and forth.

    Source: the idea of Troutman, Love and Kerkez (2020), written anew.
    """

    scenario: Scenario
    deepest: np.ndarray
    tolerance: float = 0.1

    def __call__(self, depths: np.ndarray) -> np.ndarray:
        """Return settings."""
        filling = depths / self.deepest
        share = np.maximum(filling - filling.mean() + self.tolerance, 0)
        speed = np.sqrt(2 * self.scenario.gravity * np.maximum(depths, 1e-3))
        return np.clip(self.scenario.outflow * share / share.sum() / (self.scenario.orifice * speed), 0, 1)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same settings all the time."""

    settings: np.ndarray

    def __call__(self, depths: np.ndarray) -> np.ndarray:
        """Return settings."""
        return np.clip(self.settings, 0, 1)


@dataclasses.dataclass(frozen=True)
class Feedback:
    """Settings a + b (own filling) + c (largest filling), cut to 0..1, with numbers a, b, c of each valve.

    Args:
        deepest: depths at which basins are full.
        numbers: shape (3 valves,).
    """

    deepest: np.ndarray
    numbers: np.ndarray

    def __call__(self, depths: np.ndarray) -> np.ndarray:
        """Return settings."""
        a, b, c = self.numbers.reshape(3, -1)
        filling = depths / self.deepest
        return np.clip(a + b * filling + c * filling.max(), 0, 1)


@dataclasses.dataclass(frozen=True)
class Sewer:
    """A scenario in a process of its own, one for each simulation.

    Args:
        python: of an environment with pystorms.
        scenario: its name.
        interval: seconds of simulated time between two decisions.
        server: the program.
    """

    python: str
    scenario: str
    interval: float = 60.0
    server: Path = SERVER

    def play(self, policy: Policy, hours: float = math.inf) -> dict[str, Any]:
        """Return what a simulation under a policy reports, or {"cost": nan} where its process fails.

        Args:
            policy: depths -> settings, or None for the valves as they are.
            hours: of simulated time to play at most.
        """
        command = [self.python, str(self.server), self.scenario, str(self.interval), str(hours)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, text=True, bufsize=1, **pipes) as process:
            assert process.stdin is not None and process.stdout is not None
            while line := process.stdout.readline():
                said = json_.loads(line)
                if said["done"]:
                    return said
                settings = policy(np.asarray(said["depths"]))
                answer = None if settings is None else [float(s) for s in settings]
                try:
                    print(json_.dumps({"settings": answer}), file=process.stdin, flush=True)
                except BrokenPipeError:
                    break
        return {"cost": math.nan, "steps": 0, "hours": 0.0, "flooded": {}, "depths": []}

    @functools.cached_property
    def deepest(self) -> np.ndarray:
        """Depths at which the basins are full."""
        command = [self.python, str(self.server), self.scenario, "0", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return np.asarray(json_.loads(done.stdout.splitlines()[-1])["deepest"])


def environment(folder: Path) -> str | None:
    """Return the Python of an environment with pystorms, which is made where it is not there; None if that fails."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
        if subprocess.run([str(python), "-c", "import pystorms"], check=False, capture_output=True).returncode:
            command = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
            subprocess.run(command, check=True, capture_output=True, text=True)
            subprocess.run([str(python), "-c", "import pystorms"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: no environment with {' '.join(REQUIREMENTS)} in {folder}: {error}")
        print(getattr(error, "stderr", None) or "")
        return None
    return str(python)


def search(
    sewer: Sewer, policy: Callable[[np.ndarray], Policy], start: np.ndarray, evaluations: int, *, hours: float,
    bounds: np.ndarray | None = None, sigma: float = 0.25, seed: int = 0, workers: int = 2,
) -> tuple[np.ndarray, float, int]:  # fmt: skip
    """Return the best numbers of a policy that an evolution strategy finds, their cost, and how many runs were lost.

    Args:
        sewer: to play in.
        policy: numbers -> policy.
        start: numbers to begin with, which are the first to be tried.
        evaluations: simulations in all.
        hours: of each.
        bounds: lowest and highest numbers, shape (numbers, 2).
        sigma: first standard deviation.
        seed: of the search.
        workers: simulations at once.

    Source: Hansen and Ostermeier (2001), in the library cmaes.
    """
    from cmaes import CMA

    strategy = CMA(mean=start.astype(float), sigma=sigma, bounds=bounds, seed=seed)
    best, lowest = start, sewer.play(policy(start), hours)["cost"]
    lost = int(math.isnan(lowest))
    with ThreadPoolExecutor(workers) as pool:
        for _ in range((evaluations - 1) // strategy.population_size):
            asked = [strategy.ask() for _ in range(strategy.population_size)]
            costs = [found["cost"] for found in pool.map(lambda x: sewer.play(policy(x), hours), asked)]
            lost += sum(math.isnan(cost) for cost in costs)
            for x, cost in zip(asked, costs, strict=True):
                if not math.isnan(cost) and not cost >= lowest:
                    best, lowest = x, cost
            worst = [1e12 if math.isnan(cost) else cost for cost in costs]  # the strategy looks at ranks only
            strategy.tell(list(zip(asked, worst, strict=True)))
    return best, lowest, lost


def row(sewer: Sewer, what: str, found: dict[str, Any], seconds: float, **more: Any) -> Record:
    """Return the record of a whole simulation."""
    known = SCENARIOS[sewer.scenario].known.get(what)
    flooded = {basin: steps for basin, (steps, _) in found["flooded"].items() if steps}
    told = {
        "cost": round(found["cost"], 2), "known": known, "steps": found["steps"],
        "flooded steps": flooded or "none", "flooded hours": round(sum(h for _, h in found["flooded"].values()), 3),
    }  # fmt: skip
    ratio = found["cost"] / known if known else None
    return Record(
        what=f"{sewer.scenario}, {what}", size=f"{len(sewer.deepest)} basins, decisions every {sewer.interval:g} s",
        seconds=seconds, ratio=ratio, reference="known cost" if known else None, target=1.0 if known else None,
        more=told | more,
    )  # fmt: skip


def scenario_records(sewer: Sewer, evaluations: int, seeds: Sequence[int]) -> list[Record]:
    """Play a scenario under all policies."""
    scenario, deepest = SCENARIOS[sewer.scenario], sewer.deepest
    count = len(deepest)
    records = []

    def play(what: str, policy: Policy, within: Sewer = sewer, **more: Any) -> None:
        before = time.perf_counter()
        found = within.play(policy)
        records.append(row(within, what, found, time.perf_counter() - before, **more))
        print(f"{records[-1].what}: {records[-1].more}", flush=True)

    play("uncontrolled", uncontrolled)
    play("rule", rule, dataclasses.replace(sewer, interval=0.0))  # as published: switched in every step
    play("equal filling", EqualFilling(scenario, deepest))
    constant = (Constant, np.full(count, 0.5), np.tile([0.0, 1.0], (count, 1)), 0.25)
    # at first the fullest basin is open, and others are throttled by how much less full they are
    feedback = (functools.partial(Feedback, deepest), np.repeat([1.0, 1.0, -1.0], count), None, 0.5)
    for what, (policy, start, bounds, sigma) in {"constant settings": constant, "feedback": feedback}.items():
        for seed in seeds if evaluations else ():
            before = time.perf_counter()
            best, _, lost = search(
                sewer, policy, start, evaluations, hours=scenario.first_hours, bounds=bounds, sigma=sigma, seed=seed
            )
            told = {"seed": seed, "evaluations": evaluations, "lost": lost, "search s": time.perf_counter() - before}
            play(f"{what}, searched for", policy(best), **told, numbers=np.round(best, 2).tolist())
    return records


def main(
    *, scenarios: tuple[str, ...] = ("theta", "gamma"), evaluations: int = 300, seeds: tuple[int, ...] = (0,),
    interval: float = 60.0, folder: Path = FOLDER, json: Path | None = None,
) -> None:  # fmt: skip
    """Play the scenarios under rules, and under constant settings and feedback that an evolution strategy finds.

    What is counted are steps of the simulator with flooding; their length adapts to the flow, so that fewer of them
    need not be less time under water, which is told beside the cost.

    Args:
        scenarios: names of pystorms.
        evaluations: simulations of each search, 0 for none.
        seeds: of the searches.
        interval: seconds of simulated time between decisions.
        folder: of the environment with pystorms, made where there is none (needs the internet).
        json: file for the records.
    """
    try:
        import cmaes  # noqa: F401
    except ImportError:
        print("searches are skipped: pip install cmaes")
        evaluations = 0
    python = environment(folder)
    records = []
    for name in scenarios if python else ():
        records += scenario_records(Sewer(python, name, interval), evaluations, seeds)
    report("storm sewers", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
