"""The computation of a run: draws and truth, a part of the analyses in all repeats together, and a trial."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.core.results import Result
from diffassim.experiments.framework.assimilation import Record, assimilated, first_belief
from diffassim.experiments.framework.twin import Draw, random_stream, states_at
from diffassim.experiments.twins.assembly import Assembled, assembled, climatology, first_states
from diffassim.experiments.twins.observing import observed_by
from diffassim.experiments.twins.plan import Part, ToldBy, lag_of
from diffassim.experiments.twins.series import error_series
from diffassim.experiments.twins.sweep import PlannedRun
from diffassim.io.messages import single_line

__all__ = ["computed", "observation_times", "try_runs"]


def observation_times(part: Part) -> Any:
    """Return the numbers, from 1 on, of the observation times of a part's analyses (the ends of windows)."""
    lag, analyses = lag_of(part.run), np.arange(part.analyses.start, part.analyses.stop)
    return lag + part.run.method.shift * analyses if lag else 1 + analyses


def computed(part: Part, carry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Assimilate the observations of a part, in all repeats together.

    Args:
        part: analyses of a run.
        carry: what the part before handed on; empty for the first.

    Returns:
        What is handed on, series of shape (time, seed, field) by name, and result codes of shape (time, seed). Where
        the truth itself is not finite, there are no series, and the codes say `DIVERGED`.
    """
    settings = part.run.settings
    times = part.analyses.stop - part.analyses.start
    samples = climatology(settings)
    if not bool(tree.all_finite(samples)) or (part.analyses.start and not carry):
        return {}, {}, np.full((times, settings.seeds), int(Result.DIVERGED), np.int8)
    made = assembled(settings, samples)
    draws, truth = _draws(ToldBy(settings, _about_draws(settings)))
    keys = _keys(settings, Draw.OBSERVATIONS)
    first = functools.partial(_first_beliefs, made)
    belief = _unpacked(carry, made, settings, draws, truth) if carry else first(draws)
    run = functools.partial(_assimilate, made, settings, part.analyses)
    belief, series, result = jax.vmap(run)(belief, truth, keys)
    handed = {f"{number:04d}": leaf for number, leaf in enumerate(jax.tree.leaves(belief))}
    series = {name: np.moveaxis(np.asarray(values), 0, 1) for name, values in series.items()}
    return {} if part.last else handed, series, np.asarray(result).T.astype(np.int8)


def _assimilate(made: Assembled, settings: Any, part: slice, belief: Any, truth: Any, key: Any) -> Any:
    """Return belief, series and result codes of one repeat."""
    interval, cycles, shift = settings.observe.interval, settings.cycles, settings.methods[0].shift
    steps = interval * np.arange(1, cycles + 1)
    noise, own = jax.random.split(key)
    observed = jax.tree.map(lambda leaf: leaf[1:], truth)
    observations = tuple(
        observed_by(instrument, jax.random.fold_in(noise, number), observed, steps, settings.observe)
        for number, instrument in enumerate(made.instruments)
    )
    record = Record(observations, cycles, interval, made.lag, shift)
    belief, found = assimilated(made.method, made.model, belief, record, key=own, part=part, beliefs=True)
    analyses = np.arange(part.start, part.stop)
    at = made.lag + shift * analyses if made.lag else 1 + analyses
    back = made.lag or getattr(made.method, "lag", 0)
    now, before = (jax.tree.map(lambda leaf, rows=rows: leaf[rows], truth) for rows in (at, np.maximum(at - back, 0)))
    return belief, error_series(found, now, before, made.samples), found.result


def _first_beliefs(made: Assembled, draws: Any) -> Any:
    """Return what the method starts from, in every repeat."""

    def one(center: Any, members: Any) -> Any:
        return first_belief(made.method, lambda: center, lambda _: made.start, members)

    return jax.vmap(one)(*draws)


def _about_draws(settings: Any) -> str:
    return str(settings.model_dump_json(exclude={"methods", "discarded_cycles"})) + f" {settings.methods[0].members}"


@functools.lru_cache(maxsize=1)
def _draws(told: ToldBy) -> tuple[Any, Any]:
    """Return (center, members) of the start, and the truth at the start and all observation times, of all repeats."""
    settings = told.settings
    made = assembled(settings, climatology(settings))
    steps = settings.observe.interval * np.arange(settings.cycles + 1)

    def one(key: Any) -> Any:
        choice, first, rest, noise = jax.random.split(key, 4)
        number = jax.random.randint(choice, (), 0, settings.truth.samples)
        center = jax.tree.map(lambda leaf: leaf[number], made.samples)

        def drawn(key: Any) -> Any:
            return tree.add(center, made.start.sample(key, center))

        # One by one from its own key: more members begin with the same ones.
        keys = jax.vmap(lambda member: jax.random.fold_in(rest, member))(np.arange(settings.methods[0].members))
        return (center, jax.vmap(drawn)(keys)), states_at(made.truth_with(noise), drawn(first), steps)

    return jax.vmap(one)(_keys(settings, Draw.TRUTH))


def _keys(settings: Any, draw: Draw) -> Any:
    return jnp.stack([random_stream(settings.seed, draw, repeat) for repeat in range(settings.seeds)])


def _unpacked(carry: dict[str, Any], made: Assembled, settings: Any, draws: Any, truth: Any) -> Any:
    """Return the belief that a carry holds; its structure is found by tracing the first analysis."""

    def first(draws: Any, truth: Any, keys: Any) -> Any:
        run = functools.partial(_assimilate, made, settings, slice(0, 1))
        return jax.vmap(run)(_first_beliefs(made, draws), truth, keys)[0]

    like = jax.eval_shape(first, draws, truth, _keys(settings, Draw.OBSERVATIONS))
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(carry[name]) for name in sorted(carry)])


def try_runs(runs: list[PlannedRun]) -> int:
    """Trace one run of every kind, and return how many kinds there are: runs of one kind share compiled programs.

    Raises:
        ConfigurationError: naming the run, if something does not fit.
    """
    kinds = set()
    for run in runs:
        settings = run.settings
        try:
            made = assembled(settings, first_states(settings, 3))
            shapes = [(jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(made)]
            others = made.lag, run.method.members, run.method.shift, settings.cycles, settings.observe.interval
            kind = str((jax.tree.structure(made), shapes, settings.observe.law, others))
            if kind not in kinds:
                jax.eval_shape(functools.partial(_trial, made, settings))
                kinds.add(kind)
        except (AssimilationError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            where = ", ".join([run.method.name, *(f"{path} = {value}" for path, value in run.values.items())])
            raise ConfigurationError(f"twin: {where}: {single_line(error, 400)}") from None
    return len(kinds)


def _trial(made: Assembled, settings: Any) -> Any:
    """Return what one repeat over as few cycles as there can be comes to, to be traced."""
    cycles = min(settings.cycles, max(made.lag, 1) + 1)
    settings = settings.model_copy(update={"cycles": cycles})
    center = jax.tree.map(lambda leaf: leaf[0], made.samples)

    def repeated(count: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)) + 0, center)

    instruments = [i.replace(where=None if i.where is None else i.where[:cycles]) for i in made.instruments]
    belief = first_belief(made.method, lambda: center, lambda _: made.start, repeated(settings.methods[0].members))
    part = slice(0, Record((), cycles, 1, made.lag, settings.methods[0].shift).analyses)
    made = made._replace(instruments=instruments)
    return _assimilate(made, settings, part, belief, repeated(cycles + 1), jax.random.key(0))
