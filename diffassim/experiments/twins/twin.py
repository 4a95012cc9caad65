"""Any model, observations and method by their names, with sweeps over any number: one row a run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import xarray as xr

from diffassim.experiments.framework.base import Experiment, Results
from diffassim.experiments.twins.assembly import assembled, first_states
from diffassim.experiments.twins.plan import plan_of
from diffassim.experiments.twins.series import NUMBERS
from diffassim.experiments.twins.sweep import PlannedRun
from diffassim.experiments.twins.twin_run import computed, observation_times, try_runs
from diffassim.experiments.twins.twin_scores import summarized
from diffassim.experiments.twins.twin_settings import TwinConfiguration

__all__ = ["Twin"]

SHOWN_RUNS = 20


class Twin(Experiment):
    """A truth is made by a model, observed with errors, and assimilated, for every combination of what is swept.

    Truth and members are drawn from one normal distribution around a state of the model's climatology. Forecasts (from
    one analysis to the next), analyses and smoothed states are compared with the truth at every analysis: the root of
    the mean square error over the state, the spread, and the continuous ranked probability score; numbers are means
    over time, then over the seeds, with the standard error over these (for a single seed: over ten stretches of time).
    All runs have the same truths and errors wherever their settings do not make them differ. A repeat whose analysis
    is not finite any more counts as diverged and is not in the means; one whose error is not below that of the
    climatology is counted as lost, and is in them.
    """

    name = "twin"
    summary = "Any named model, observing system and method, with sweeps over any number: one row a run."
    configuration = TwinConfiguration

    def chunks(self, config: TwinConfiguration) -> int:
        """Return the number of parts of all runs."""
        return len(plan_of(config).parts)

    def chains(self, config: TwinConfiguration) -> tuple[range, ...]:
        """Return the parts of each run."""
        parts = plan_of(config).parts
        ends = [number + 1 for number, part in enumerate(parts) if part.last]
        return tuple(range(first, end) for first, end in zip([0, *ends], ends, strict=False))

    def stage(self, config: TwinConfiguration, index: int) -> str:
        """Return the method and what is swept."""
        return _in_words(plan_of(config).parts[index].run)

    def check(self, config: TwinConfiguration) -> str:
        """Return what was understood, after a run of every kind was put together and traced, but not computed."""
        plan = plan_of(config)
        kinds = try_runs(plan.runs)
        first = plan.runs[0].settings
        trial = assembled(first, first_states(first, 3))
        state = jax.tree.map(lambda leaf: leaf[0], trial.samples)
        lines = [
            self.summary,
            f"  model {trial.model}",
            f"  state of {plan.sizes[0]} numbers: {', '.join(plan.fields)}",
        ]
        if str(trial.truth_model) != str(trial.model):
            lines.append(f"  truth {trial.truth_model}")
        for instrument in trial.instruments:
            where = None if instrument.where is None else instrument.where[0]
            values = jax.eval_shape(lambda x, i=instrument, w=where: i.operator(x, w), state).size
            lines.append(
                f"  observed {instrument.field}: {values} values every {first.observe.interval} steps of "
                f"{trial.model.dt}, {_error(first.observe)}"
            )
        lines.append(
            f"  {len(plan.runs)} runs of {config.seeds} seeds and {first.cycles} cycles, in {len(plan.parts)} parts; "
            f"programs are compiled for {kinds} kinds of run"
        )
        lines += [f"    {_in_words(run)}" for run in plan.runs[:SHOWN_RUNS]]
        more = len(plan.runs) - SHOWN_RUNS
        return "\n".join([*lines, *([f"    and {more} more"] if more > 0 else [])])

    def memory(self, config: TwinConfiguration) -> dict[str, float]:
        """Return what truth, members and climatology of the largest run need.

        Every kind of run is put together before, so that what does not fit is said before there is any output.
        """
        plan = plan_of(config)
        try_runs(plan.runs)
        size, seeds = np.dtype(config.dtype).itemsize, config.seeds
        state = [count * size for count in plan.sizes]
        runs = list(zip(plan.runs, state, strict=True))
        return {
            "the truth (seeds x cycles x state)": max(3.0 * seeds * run.settings.cycles * each for run, each in runs),
            "the members (seeds x members x state)": max(4.0 * seeds * run.method.members * each for run, each in runs),
            "the climatology (samples x state)": max(2.0 * run.settings.truth.samples * each for run, each in runs),
        }

    def start(self, config: TwinConfiguration) -> dict[str, Any]:
        """Return nothing: every run has a start of its own."""
        return {}

    def advance(
        self, config: TwinConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the observations of one part of a run, in all repeats together."""
        plan = plan_of(config)
        part = plan.parts[index]
        handed, series, result = computed(part, carry)
        dataset = xr.Dataset({"result": (("time", "seed"), result, {"long_name": "result code of the analysis"})})
        times = observation_times(part)
        dataset["run"] = ("time", np.full(times.size, part.run.number, np.int32), {"long_name": "number of the run"})
        dataset["cycle"] = ("time", times.astype(np.int32), {"long_name": "observation time of the analysis"})
        for name in NUMBERS:
            values = np.full((times.size, config.seeds, len(plan.fields)), np.nan, np.float32)
            if name in series:
                values[..., plan.columns[part.run.number]] = series[name]
            dataset[name] = (("time", "seed", "field"), values, {"long_name": name.replace("_", " ")})
        return handed, dataset.assign_coords(field=plan.fields, seed=np.arange(config.seeds))

    def finish(self, config: TwinConfiguration, dataset: xr.Dataset) -> Results:
        """Return one row for each run, and the figure."""
        return summarized(config, plan_of(config).runs, dataset)


def _in_words(run: PlannedRun) -> str:
    return ", ".join([run.method.name, *(f"{path} = {value}" for path, value in run.values.items())])


def _error(observe: Any) -> str:
    if observe.share is not None:
        return f"errors of {observe.share:g} of the climatological standard deviation, {observe.law}"
    return f"errors of {1.0 if observe.std is None else observe.std}, {observe.law}"
