"""Inflation by a learned policy, beside constants, finite-size and adaptive inflation, where regimes are new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, field_validator

from diffassim.experiments.control.adaptive_inflation_judging import (
    Constants,
    Judged,
    Lanes,
    by_regime,
    chosen_constants,
    constants_of,
    contestants,
    in_turn,
    judge,
    lanes_of,
    with_constants,
    with_policy,
)
from diffassim.experiments.control.adaptive_inflation_regimes import CHANGED, REGIMES, Nature
from diffassim.experiments.control.adaptive_inflation_results import NAMES, results_of
from diffassim.experiments.control.adaptive_inflation_training import FILTERS, TRAININGS, about, trained, untrained_like
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment
from diffassim.experiments.framework.twin import random_stream
from diffassim.training.reinforcement.policy_file import policies_from_text, read_policies

__all__ = ["AdaptiveInflationComparison", "AdaptiveInflationConfiguration"]

CURVE = 40  # points of a learning curve
WEIGHTS, TUNING, SCORED, DRAWN, STATES = range(5)  # what a random stream is for


class AdaptiveInflationConfiguration(Configuration):
    """Settings of the comparison.

    Args:
        filters: which filters are steered; default: both.
        trainings: how policies are trained; default: all ways.
        policy: file of policies (`policies.json` of another run) to be judged; nothing is trained then.
        copies: independent trainings of each kind; the best on regimes of the training is judged.
        effort: factor of the updates of every training.
        seeds: twins of each regime on which everything is scored; a single one gives no intervals.
        tuning: other twins of each regime, on which its best constant is chosen.
        drawn: twins in regimes of the training, on which the one constant, and the best copy, are chosen.
        half: analyses of each half of a twin.
        n: number of variables; policies are trained with 40.
        members: of both filters; default: 24 (ETKF) and 8 (LETKF), with which policies are trained.
    """

    filters: tuple[str, ...] = tuple(FILTERS)
    trainings: tuple[str, ...] = tuple(TRAININGS)
    policy: Path | None = None
    copies: Annotated[int, Field(ge=1)] = 1
    effort: Annotated[float, Field(gt=0)] = 1.0
    seeds: Annotated[int, Field(ge=1)] = 12
    tuning: Annotated[int, Field(ge=1)] = 6
    drawn: Annotated[int, Field(ge=2)] = 16
    half: Annotated[int, Field(ge=10)] = 100
    n: Annotated[int, Field(ge=8)] = 40
    members: Annotated[int, Field(ge=3)] | None = None

    @field_validator("filters", "trainings")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        known = FILTERS if info.field_name == "filters" else TRAININGS
        unknown = [name for name in names if name not in known]
        if unknown or not names or len(set(names)) < len(names):
            found = repr(unknown[0]) if unknown else "none, or one twice"
            raise ValueError(f"found {found}; there are {', '.join(known)}")
        return names

    def members_of(self, name: str) -> int:
        """Return the size of the ensembles on which a filter is judged."""
        return FILTERS[name].members if self.members is None else self.members


class AdaptiveInflationComparison(StagedExperiment):
    """Train policies that set inflation and localization radius, and judge them in regimes that they have not seen.

    A Lorenz-96 model of forcing 8 follows truths of other forcing, or with random errors, by observations that differ
    in density and error; in five of the regimes something of this changes in the middle. Policies see statistics of the
    innovations and correct the adaptive scheme of the package. They are trained in regimes drawn at random, which
    change without notice: by the gradient through the filter against the truth, by the same gradient of the likelihood
    of the observations, which needs no truth, and by PPO. Every regime has its own best constants, chosen on other
    seeds from a table of inflations (and radii); beside them stand the constants that are best over the regimes of the
    training, those that are best for each half, as if switched where a regime changes, finite-size inflation (EnKF-N),
    and the adaptive scheme. All methods see the same twins. Errors are
    averaged over time; a lost analysis counts with an error of 6, and lost runs are counted. Intervals are those of
    Student's t over the seeds, of the ratio to the best constant in the same twin.
    """

    name = "adaptive-inflation"
    summary = "Inflation and localization by a learned policy, in regimes that it has not seen and that change."
    configuration = AdaptiveInflationConfiguration

    def stages(self, config: AdaptiveInflationConfiguration) -> tuple[Stage, ...]:
        """Return the trainings, unless policies are given, and the judging of each filter."""
        judging = Stage("judging", len(config.filters), self._judge)
        if config.policy is not None:
            return (judging,)
        return Stage("training", len(config.filters) * len(config.trainings), self._train), judging

    def start(self, config: AdaptiveInflationConfiguration) -> dict[str, Any]:
        """Read policies, if a file of them is given."""
        if config.policy is None:
            return {"policies": {}, "curves": {}}
        text, found = read_policies(config.policy), {}
        for name in config.filters:
            for how in config.trainings:
                like = untrained_like(name, config.dtype)
                policy = policies_from_text(text, f"{name}, {how}", like, about(name), str(config.policy))
                found[f"{name}, {how}"] = _arrays(jax.tree.map(lambda leaf: leaf[None], policy))
        return {"policies": found, "curves": {}}

    def _train(
        self, config: AdaptiveInflationConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Train one filter in one way, all copies side by side."""
        which, how_many = divmod(index, len(config.trainings))
        name, how = config.filters[which], config.trainings[how_many]
        numbers = list(FILTERS).index(name), list(TRAININGS).index(how)
        nature = Nature.create(random_stream(config.seed, STATES, *numbers), FILTERS[name].members, 40, config.dtype)
        keys = jax.random.split(random_stream(config.seed, WEIGHTS, *numbers), config.copies)
        updates = max(2, round(TRAININGS[how].updates * config.effort))
        policies, rewards = trained(name, how, nature, keys, updates)
        parts = np.array_split(np.asarray(rewards), min(CURVE, updates), axis=1)
        curve = np.full((config.copies, CURVE), np.nan)
        curve[:, : len(parts)] = np.stack([part.mean(axis=1) for part in parts], axis=1)
        label = f"{name}, {how}"
        carry = {
            "policies": carry["policies"] | {label: _arrays(policies)}, "curves": carry["curves"] | {label: curve}
        }  # fmt: skip
        return carry, xr.Dataset()

    def _judge(
        self, config: AdaptiveInflationConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Choose constants and copies, and score everything, for one filter."""
        name = config.filters[index]
        number = list(FILTERS).index(name)
        keys = jnp.stack([random_stream(config.seed, what, number) for what in (TUNING, SCORED, DRAWN)])
        sizes = config.members_of(name), config.n, config.half
        lanes = lanes_of(keys, config.tuning, config.seeds, config.drawn, *sizes, config.dtype)
        constants, found = _constants(name, lanes, config.dtype)
        for label, method in contestants(name, config.dtype).items():
            found[label] = _scored(judge(method, lanes.scored))
        chosen = {}
        for how in config.trainings:
            copies = _policies(untrained_like(name, config.dtype), carry["policies"][f"{name}, {how}"])
            methods = [with_policy(name, policy, config.dtype) for policy in copies]
            which = 0
            if len(copies) > 1:
                which = int(np.argmin([np.log(judge(one, lanes.drawn).error.mean(axis=1)).mean() for one in methods]))
            found[how], chosen[how] = _scored(judge(methods[which], lanes.scored)), copies[which]
        return carry, self._dataset(config, index, found, constants, chosen, carry)

    def _dataset(
        self, config: Any, index: int, found: Any, constants: Constants, chosen: Any, carry: Any
    ) -> xr.Dataset:
        name = config.filters[index]
        labels = [*NAMES, *config.trainings]
        largest = max(sum(np.size(leaf) for leaf in jax.tree.leaves(untrained_like(f, config.dtype))) for f in FILTERS)
        weights = np.full((len(config.trainings), largest), np.nan)
        for k, how in enumerate(config.trainings):
            flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(chosen[how])])
            weights[k, : flat.size] = flat
        curves = [carry["curves"].get(f"{name}, {how}", np.full((config.copies, CURVE), np.nan))
                  for how in config.trainings]  # fmt: skip
        fields = {key: np.stack([found[label][key] for label in labels])[None] for key in found[labels[0]]}
        each = ("time", "method", "regime", "twin")
        return xr.Dataset(
            {
                "error": (each, fields["error"], {"long_name": "root mean square error of analyses, mean over time"}),
                "spread": (each, fields["spread"], {"long_name": "root mean square spread, mean over time"}),
                "lost": (each, fields["lost"].astype(np.int8), {"long_name": "whether the filter diverged"}),
                "error_course": ((*each[:3], "analysis"), fields["error_course"], {"long_name": "mean over the twins"}),
                "factor_course": ((*each[:3], "analysis"), fields["factor_course"], {"long_name": "of the variances"}),
                "constant": (("time", "regime", "part"), constants.best[None], {"long_name": "best factor and radius"}),
                "one_constant": (("time", "part"), constants.one[None]),
                "curve": (("time", "training", "copy", "point"), np.stack(curves)[None]),
                "weights": (
                    ("time", "training", "weight"),
                    weights[None],
                    {"long_name": "policies, see policies.json"},
                ),
            },
            {"time": [float(index)], "regime": list(REGIMES), "method": labels, "training": list(config.trainings)},
        )

    def finish(self, config: AdaptiveInflationConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors and ratios, with intervals, figures, and the file of policies."""
        return results_of(config, dataset, CHANGED)


def _constants(name: str, lanes: Lanes, dtype: Any) -> tuple[Constants, dict[str, dict[str, np.ndarray]]]:
    """Return constants chosen on other twins, and what they do in the scored ones."""
    pairs, choosing = constants_of(name), lanes.choosing
    errors = np.stack([np.asarray(judge(with_constants(name, pair, dtype), choosing).error) for pair in pairs])
    constants = chosen_constants(pairs, errors, len(lanes.tuned.truth))

    def run(chosen: np.ndarray) -> Judged:
        """Run every scored twin with the constants of its regime."""
        each = np.repeat(chosen, len(lanes.scored.truth) // len(REGIMES), axis=0)
        return judge(with_constants(name, each, dtype), lanes.scored, each=True)

    one = np.broadcast_to(constants.one, constants.best.shape)
    found = run(constants.best), run(one), in_turn(*(run(half) for half in constants.halves))
    return constants, dict(zip(NAMES[:3], map(_scored, found), strict=True))


def _scored(found: Judged) -> dict[str, np.ndarray]:
    """Return what is kept of a method: numbers of each scored twin, and the mean course of each regime."""
    error, spread, factor, lost = (by_regime(np.asarray(part)) for part in found)
    return {
        "error": error.mean(axis=2), "spread": np.nan_to_num(spread).mean(axis=2), "lost": lost,
        "error_course": error.mean(axis=1), "factor_course": factor.mean(axis=1),
    }  # fmt: skip


def _arrays(policies: Any) -> dict[str, np.ndarray]:
    return {f"{k:02d}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(policies))}


def _policies(like: Any, arrays: dict[str, Any]) -> list[Any]:
    """Return the copies of a policy."""
    leaves, structure = [arrays[key] for key in sorted(arrays)], jax.tree.structure(like)
    return [jax.tree.unflatten(structure, [jnp.asarray(leaf[k]) for leaf in leaves]) for k in range(leaves[0].shape[0])]
