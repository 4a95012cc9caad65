"""The computation of a run: draws and truth, a part of the analyses in all repeats together, and a trial."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.experiments.framework.assimilation import Record, assimilated, first_belief
from diffassim.experiments.framework.twin import Draw, random_stream
from diffassim.experiments.twins.assembly import Assembled, assembled, climatology, first_states
from diffassim.experiments.twins.observing import observed_by
from diffassim.experiments.twins.plan import Part, ToldBy
from diffassim.experiments.twins.series import error_series
from diffassim.experiments.twins.sweep import PlannedRun
from diffassim.io.messages import single_line
from diffassim.models import rollout
from diffassim.observations import Observations

__all__ = ["computed", "observation_times", "try_runs"]


def observation_times(part: Part) -> Any:
    """Return the numbers, from 1 on, of the observation times of a part's analyses (the ends of windows)."""
    lag, analyses = part.run.method.window, np.arange(part.analyses.start, part.analyses.stop)
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
    settings, first = part.run.settings, part.analyses.start
    samples = climatology(settings)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(samples)) or (first and not carry):
        return {}, {}, np.full((part.analyses.stop - first, settings.seeds), int(Result.DIVERGED), np.int8)
    made = assembled(settings, samples)
    about = settings.model_dump_json(exclude={"methods", "discarded_cycles", "best_over"})
    centers, truth, values = _truth(ToldBy(settings, about))
    times = observation_times(part)
    back = made.lag or getattr(made.method, "lag", 0)
    now, before = (
        jax.tree.map(lambda leaf, rows=rows: leaf[:, rows], truth) for rows in (times, np.maximum(times - back, 0))
    )
    seen = slice(first * part.run.method.shift, int(times[-1]))  # observation times, from 0 on
    inputs = {
        "values": tuple(leaf[:, seen] for leaf in values), "now": now, "before": before,
        "key": _keys(settings, Draw.OBSERVATIONS),
    }  # fmt: skip
    where = tuple(None if i.where is None else i.where[seen] for i in made.instruments)
    start = np.asarray(first * part.run.method.shift * settings.observe.interval, np.int32)
    shape = _Shape(settings.observe.interval, part.run.method.shift)
    begin = _first_beliefs(made, centers, _keys(settings, Draw.BACKGROUND), part.run.method.members)
    if carry:
        like = jax.eval_shape(_assimilate, made, settings.observe.assumed, begin, inputs, where, start, shape)[0]
        begin = jax.tree.unflatten(jax.tree.structure(like), [carry[name] for name in sorted(carry)])
    belief, series, result = _assimilate(made, settings.observe.assumed, begin, inputs, where, start, shape)
    handed = {f"{number:04d}": leaf for number, leaf in enumerate(jax.tree.leaves(belief))}
    series = {name: np.moveaxis(np.asarray(each), 0, 1) for name, each in series.items()}
    return {} if part.last else handed, series, np.asarray(result).T.astype(np.int8)


class _Shape(NamedTuple):
    """What is compiled for: model steps between observation times, and these from window to window."""

    interval: int
    shift: int


@functools.partial(jax.jit, static_argnames="shape")
def _assimilate(made: Assembled, assumed: Any, belief: Any, inputs: Any, where: Any, start: Any, shape: _Shape) -> Any:
    """Return belief, series and result codes of all repeats; runs of the same shapes share the compiled program."""

    def one(belief: Any, its: dict[str, Any]) -> Any:
        count = its["values"][0].shape[0]
        # Of overlapping windows, the part before has used the first observation times.
        fresh = (start == 0) | (np.arange(count) >= made.lag - shape.shift)
        observations = tuple(
            Observations(
                values, shape.interval * np.arange(1, count + 1), i.operator, Diagonal(std=assumed * i.std),
                where=places, mask=jnp.reshape(fresh, (count,) + (1,) * (values.ndim - 1)),
            )
            for values, places, i in zip(its["values"], where, made.instruments, strict=True)
        )  # fmt: skip
        record = Record(observations, count, shape.interval, made.lag, shape.shift)
        belief, found = assimilated(
            made.method, made.model, belief, record, key=its["key"], start=start, beliefs=True
        )  # fmt: skip
        return belief, error_series(found, its["now"], its["before"], made.samples), found.result

    return jax.vmap(one)(belief, inputs)


@functools.lru_cache(maxsize=1)
def _truth(told: ToldBy) -> tuple[Any, Any, Any]:
    """Return the centers of the start, the truth at the start and all observation times, and the observed values.

    All have a leading axis of repeats and lie in NumPy arrays.
    """
    settings = told.settings
    made = assembled(settings, climatology(settings)).replace(method=None, lag=0)
    steps = settings.observe.interval * np.arange(settings.cycles + 1)
    found = _made_truth(made, steps, _keys(settings, Draw.TRUTH), int(steps[-1]), settings.observe.law)
    return jax.tree.map(np.asarray, found)  # type: ignore[no-any-return]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _made_truth(made: Assembled, steps: Any, keys: Any, last: int, law: str) -> Any:
    def one(key: Any) -> Any:
        choice, first, noise, errors = jax.random.split(key, 4)
        number = jax.random.randint(choice, (), 0, jax.tree.leaves(made.samples)[0].shape[0])
        center = jax.tree.map(lambda leaf: leaf[number], made.samples)
        start = tree.add(center, made.start.sample(first, center))
        truth = rollout(made.truth_with(noise), start, last, at=steps)
        later = jax.tree.map(lambda leaf: leaf[1:], truth)
        values = tuple(
            observed_by(instrument, jax.random.fold_in(errors, number), later, law)
            for number, instrument in enumerate(made.instruments)
        )
        return center, truth, values

    return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames="members")
def _first_beliefs(made: Assembled, centers: Any, keys: Any, members: int) -> Any:
    """Return what the method starts from, in every repeat."""

    def one(center: Any, key: Any) -> Any:
        def drawn(key: Any) -> Any:
            return tree.add(center, made.start.sample(key, center))

        # One by one from its own key: more members begin with the same ones.
        own = jax.vmap(lambda member: jax.random.fold_in(key, member))(np.arange(members))
        return first_belief(made.method, lambda: center, lambda _: made.start, jax.vmap(drawn)(own))

    return jax.vmap(one)(centers, keys)


def _keys(settings: Any, draw: Draw) -> Any:
    return jnp.stack([random_stream(settings.seed, draw, repeat) for repeat in range(settings.seeds)])


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
            kind = str((jax.tree.structure(made), shapes, others))
            if kind not in kinds:
                _trial(made, settings)
                kinds.add(kind)
        except (AssimilationError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            told = single_line(error, 400)
            where = [] if run.method.name in told else [run.method.name]
            where += [f"{path} = {value}" for path, value in run.values.items()]
            raise ConfigurationError(f"twin: {', '.join(where)}{': ' if where else ''}{told}") from None
    return len(kinds)


def _trial(made: Assembled, settings: Any) -> None:
    """Trace one repeat over as few cycles as there can be."""
    shift = settings.methods[0].shift
    cycles = min(settings.cycles, max(made.lag, 1) + shift)
    made = made.replace(
        instruments=tuple(i.replace(where=None if i.where is None else i.where[:cycles]) for i in made.instruments)
    )

    def whole(made: Assembled) -> Any:
        keys = _keys(settings, Draw.TRUTH)[:1]
        steps = settings.observe.interval * np.arange(cycles + 1)
        unmade = made.replace(method=None, lag=0)
        centers, truth, values = _made_truth(unmade, steps, keys, int(steps[-1]), settings.observe.law)
        analyses = np.arange(Record((), cycles, 1, made.lag, shift).analyses)
        rows = made.lag + shift * analyses if made.lag else 1 + analyses
        now = jax.tree.map(lambda leaf: leaf[:, rows], truth)
        inputs = {"values": values, "now": now, "before": now, "key": keys}
        where = tuple(i.where for i in made.instruments)
        shape, start = _Shape(settings.observe.interval, shift), np.asarray(0, np.int32)
        belief = _first_beliefs(made, centers, keys, settings.methods[0].members)
        return _assimilate(made, settings.observe.assumed, belief, inputs, where, start, shape)

    jax.eval_shape(whole, made)
