"""The seven stages of a round: each reads finished files and returns the content of new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import AssimilationError, DataError
from diffassim.experiments.loop.artifacts import STAGES, LoopFiles, as_csv, as_json, checksum, from_csv, signed
from diffassim.experiments.loop.comparison import compare, model_scores
from diffassim.experiments.loop.learner import Departures, Learner, Training
from diffassim.experiments.loop.ledger import in_use, read_model
from diffassim.experiments.loop.monitoring import FIRST, feedback, reference_of
from diffassim.experiments.loop.screening import connected
from diffassim.experiments.loop.settings import LoopConfiguration, collection_ends
from diffassim.experiments.loop.store import SourceRows, collect, read_store
from diffassim.io.messages import single_line
from diffassim.observations.flags import QCFlag

__all__ = ["STAGE_FUNCTIONS", "Work", "cleaned"]

A, B, C, D, E, F, G = STAGES
MOST_FLAGGED = 0.5  # of the new values; beyond it nobody can say which are right
PASSES = 6  # of quality control at most: what passes depends on what was assimilated
FLAG_COLUMNS = ("column", "flag", "value")

Files = tuple[Mapping[str, bytes], Mapping[str, str]]


class Work(NamedTuple):
    """One round.

    Args:
        files: directory of the loop.
        learner: the subject.
        config: settings.
        number: of the round.
        source: the table; None where its collection is finished.
    """

    files: LoopFiles
    learner: Learner
    config: LoopConfiguration
    number: int
    source: SourceRows | None

    def table(self) -> pd.DataFrame:
        """Return all rows collected so far."""
        return read_store([self.files.segment(k) for k in range(1, self.number + 1)])

    def ends(self, table: pd.DataFrame) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Return the end of the round's rows and the time from which they are held back."""
        return collection_ends(self.config, self.first(table), self.number)

    def first(self, table: pd.DataFrame) -> pd.Timestamp:
        """Return the first time of the first collection, which late rows do not change."""
        return pd.Timestamp(self.files.read_json(1, A, "collected.json")["first"])

    def json(self, stage: str, name: str) -> Any:
        """Return a JSON file of an earlier stage of the round."""
        return self.files.read_json(self.number, stage, name)

    def csv(self, stage: str, name: str) -> pd.DataFrame:
        """Return a table of an earlier stage of the round."""
        return from_csv(self.files.read(self.number, stage, name))

    def sums(self, *paths: Path) -> dict[str, str]:
        """Return checksums by path in the loop's directory."""
        return {str(path.relative_to(self.files.path)): checksum(path.read_bytes()) for path in paths}

    def lineage(self) -> dict[str, str]:
        """Return the checksums of all rows and of the incumbent."""
        paths = [self.files.segment(k) for k in range(1, self.number + 1)]
        incumbent = self.json(B, "prepared.json")["incumbent"] if self.files.finished(self.number, B) else None
        return self.sums(*paths, *([self.files.model(incumbent)] if incumbent else []))

    def skipped(self) -> str:
        """Return why nothing is trained in this round, or nothing."""
        return str(self.json(B, "prepared.json")["skipped"])


def cleaned(table: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    """Return a table with NaN where a value is flagged (flags as a list of times and columns)."""
    result = table.copy()
    for column, part in flags.groupby("column"):
        result.loc[result.index.isin(part.index), str(column)] = np.nan
    return result


def _collect(work: Work) -> Files:
    assert work.source is not None
    stored = None
    if work.number > 1:
        stored = work._replace(number=work.number - 1).table()
    first = work.first(stored) if stored is not None else work.source.frame.index.min()
    if pd.isna(first):
        raise DataError(f"{work.source.name}: holds no rows; nothing was collected")
    until, _ = collection_ends(work.config, pd.Timestamp(first), work.number)
    found = collect(work.source, stored, until)
    if work.number == 1 and found.summary["new"] < work.config.fewest:
        raise DataError(
            f"{work.source.name}: the first collection holds {found.summary['new']} rows before {until}; at least "
            f"fewest = {work.config.fewest} are needed"
        )
    segment = work.files.segment(work.number)
    work.files.write(segment, as_csv(found.rows))
    content = {"collected.json": as_json(found.summary), "corrections.csv": as_csv(found.corrections)}
    return content, work.sums(segment)


def _prepare(work: Work) -> Files:
    table, number = work.table(), work.number
    rows = from_csv(work.files.segment(number).read_bytes()).index
    promoted = in_use(work.files, after=number - 1)
    incumbent = promoted[-1] if promoted else None
    new = table.index.isin(rows)
    flags = work.learner.screen(work.config, table).where(pd.Series(new, table.index), 0)
    before = _flags_before(work)
    before = before[~before.index.isin(rows)]  # of corrected rows the old values' flags are void
    departures, since = None, rows.min()
    if incumbent is not None and len(rows):
        flags, departures = _first_guess(work, read_model(work.files, incumbent), table, flags, before, since, new)
    listed = pd.concat([part for part in (before, _listed(table, flags)) if len(part)] or [before])
    clean = cleaned(table, listed)
    collected = work.json(A, "collected.json")
    observed = work.learner.observed_columns(table)
    usable = int(clean.loc[new, observed].notna().any(axis=1).sum())
    skipped = f"{usable} usable new rows, fewer than {work.config.fewest}" if usable < work.config.fewest else ""
    values = table.loc[new, observed]
    share = float((flags.loc[new, observed] > 0).to_numpy().sum() / max(values.notna().to_numpy().sum(), 1))
    if share > MOST_FLAGGED:
        skipped = (
            f"{share:.0%} of the new values are flagged: the table or the system has changed; look at it, and begin a "
            "new lineage in another --out if the rows are right"
        )
    if skipped and incumbent is None:
        raise DataError(f"round {number}: {skipped}; without a model the loop cannot begin")
    model = read_model(work.files, incumbent) if incumbent is not None else None
    scaling = model["scaling"] if model else work.learner.scaling(work.config, clean, work.ends(table)[1])
    prepared = {
        "incumbent": incumbent,
        "skipped": skipped,
        "rows": int(new.sum()),
        "usable": usable,
        "flagged": _counted(flags),
        "share_flagged": share,
        "since": None if not len(rows) else str(_period_start(work, table, collected)),
    }
    content = {
        "flags.csv": as_csv(listed),
        "prepared.json": as_json(prepared),
        "scaling.json": as_json(scaling),
    }
    if departures is not None:
        content["normalized.csv"] = as_csv(departures.normalized)
        content["statistic.csv"] = as_csv(departures.statistic.to_frame("statistic"))
    return content, work.sums(
        *[work.files.segment(k) for k in range(1, number + 1)],
        *([work.files.model(incumbent)] if incumbent is not None else []),
    )


def _counted(flags: pd.DataFrame) -> dict[str, int]:
    """Return how many values each check has flagged, by its name."""
    found, counts = np.unique(flags.to_numpy().astype(int), return_counts=True)
    return {QCFlag(int(flag)).name: int(count) for flag, count in zip(found, counts, strict=True) if flag}


def _first_guess(
    work: Work, model: Any, table: pd.DataFrame, flags: pd.DataFrame, before: pd.DataFrame, since: Any, new: np.ndarray
) -> tuple[pd.DataFrame, Departures]:
    """Return the flags with those of values too far from the incumbent's expectation, and the departures."""
    plain, found, departures = flags, flags, None
    for _ in range(PASSES):
        used = cleaned(table, before).notna() & (found == 0)
        departures = work.learner.departures(work.config, model["model"], table.where(used), since, table)
        size = departures.normalized.abs().reindex_like(table).to_numpy()
        beside = departures.limit if departures.beside is None else departures.beside
        far = connected(size > departures.limit, size > beside) & new[:, None] & (plain == 0).to_numpy()
        following = plain.mask(far, int(QCFlag.FIRST_GUESS))
        same = following.equals(found)
        found = following
        if same:
            break
    assert departures is not None
    used = cleaned(table, before).notna() & (found == 0)
    known = departures.normalized.where(used.reindex_like(departures.normalized).fillna(False).astype(bool))
    return found, departures._replace(normalized=known)


def _features(work: Work) -> Files:
    if work.skipped():
        return {"skipped.json": as_json({"skipped": work.skipped()})}, {}
    training = _training(work, pd.DataFrame())
    return {"features.csv": as_csv(work.learner.features(work.config, training))}, work.lineage()


def _train(work: Work) -> Files:
    if work.skipped():
        return {"skipped.json": as_json({"skipped": work.skipped()})}, {}
    training = _training(work, work.csv(C, "features.csv"))
    try:
        model = work.learner.train(work.config, training)
    except AssimilationError as error:
        if training.incumbent is None:
            raise
        return {"skipped.json": as_json({"skipped": f"the training failed: {single_line(error, 300)}"})}, work.lineage()
    return {"model.json": as_json(model)}, work.lineage()


def _evaluate(work: Work) -> Files:
    prepared = work.json(B, "prepared.json")
    table = work.table()
    clean = cleaned(table, work.csv(B, "flags.csv"))
    _, until = work.ends(table)
    skipped = _failed(work)
    content: dict[str, bytes] = {}
    incumbent = prepared["incumbent"]
    evaluation: dict[str, Any] = {"skipped": skipped, "incumbent": incumbent, "comparison": None, "scores": []}
    later = []
    if prepared["since"] is not None:
        for number in _followed(work, incumbent):
            model = read_model(work.files, number)["model"]
            later.append(work.learner.forecast(work.config, model, clean, pd.Timestamp(prepared["since"]), number))
    if later:
        content["later.csv"] = as_csv(pd.concat(later))
    if not skipped:
        model = work.json(D, "model.json")
        losses = [work.learner.forecast(work.config, model, clean, until, work.number)]
        losses += [part[part.index >= until] for part in later if incumbent in set(part["model"])]
        held_back = pd.concat(losses)
        content["losses.csv"] = as_csv(held_back)
        scores = model_scores(held_back, work.learner.variable)
        evaluation["scores"] = scores.to_dict(orient="records")
        if incumbent is not None:
            evaluation["comparison"] = compare(held_back, work.number, incumbent)._asdict()
        departures = work.learner.departures(work.config, model, clean, until, clean)
        content["reference.json"] = as_json(reference_of(departures))
        content["statistic.csv"] = as_csv(departures.statistic.to_frame("statistic"))
    content["evaluation.json"] = as_json(evaluation)
    followed = [work.files.model(number) for number in _followed(work, incumbent)]
    return content, work.lineage() | work.sums(*followed)


def _apply(work: Work) -> Files:
    evaluation = work.json(E, "evaluation.json")
    now = in_use(work.files, after=work.number - 1)
    promoted, reason = _decision(evaluation, now[-1] if now else None, work.config.confidence)
    written: dict[str, str] = {}
    if promoted:
        path = work.files.model(work.number)
        model = {
            "model": work.json(D, "model.json"),
            "scaling": work.json(B, "scaling.json"),
            "reference": work.json(E, "reference.json"),
            "round": work.number,
            "from": evaluation["incumbent"],
            "lineage": work.files.manifest_sum(work.number, E),
        }
        work.files.write(path, signed(model))
        written = work.sums(path)
    decision = {"promoted": promoted, "reason": reason, "incumbent": evaluation["incumbent"]}
    return {"decision.json": as_json(decision)}, written


def _feed_back(work: Work) -> Files:
    prepared = work.json(B, "prepared.json")
    incumbent = prepared["incumbent"]
    place = work.files.stage(work.number, B)
    if incumbent is None or not (place / "statistic.csv").is_file():
        return {"feedback.json": as_json({**FIRST, "flagged": prepared["share_flagged"]})}, work.lineage()
    normalized = work.csv(B, "normalized.csv")
    departures = Departures(normalized, 0.0, work.csv(B, "statistic.csv")["statistic"])
    reference = read_model(work.files, incumbent)["reference"]
    told = feedback(
        departures, reference, prepared["share_flagged"], work.config.false_alarms, normalized.notna()
    )  # fmt: skip
    return {"feedback.json": as_json(told)}, work.lineage()


STAGE_FUNCTIONS: tuple[Callable[[Work], Files], ...] = (
    _collect, _prepare, _features, _train, _evaluate, _apply, _feed_back,
)  # fmt: skip


def _training(work: Work, features: pd.DataFrame) -> Training:
    table = work.table()
    incumbent = work.json(B, "prepared.json")["incumbent"]
    told = work.files.read_json(work.number - 1, G, "feedback.json") if work.number > 1 else FIRST
    return Training(
        cleaned(table, work.csv(B, "flags.csv")),
        work.ends(table)[1],
        work.json(B, "scaling.json"),
        features,
        read_model(work.files, incumbent)["model"] if incumbent is not None else None,
        told,
        work.number,
    )


def _followed(work: Work, incumbent: int | None) -> list[int]:
    """Return the models that are scored on the new rows: incumbent, its forerunner, those of the first two rounds."""
    chosen: set[int] = set() if incumbent is None else {incumbent}
    chosen |= set(in_use(work.files, after=work.number - 1)[-2:])
    for number in (1, 2):
        if number < work.number:
            chosen |= set(in_use(work.files, after=number)[-1:])
    return sorted(chosen)


def _decision(evaluation: Mapping[str, Any], now: int | None, confidence: float) -> tuple[bool, str]:
    if evaluation["skipped"]:
        return False, evaluation["skipped"]
    if now != evaluation["incumbent"]:
        return False, f"model {evaluation['incumbent']}, with which it was compared, was rolled back meanwhile"
    if now is None:
        return True, "there was no model before"
    test = evaluation["comparison"]
    if test["confidence"] is None:
        return False, f"only {test['n']} held-back times have both forecasts"
    better = test["confidence"] >= confidence and test["difference"] < 0
    shown = f"better with confidence {test['confidence']:.3f}, {confidence:g} is needed"
    return better, shown


def _failed(work: Work) -> str:
    if work.skipped():
        return work.skipped()
    if not (work.files.stage(work.number, D) / "model.json").is_file():
        return str(work.json(D, "skipped.json")["skipped"])
    return ""


def _flags_before(work: Work) -> pd.DataFrame:
    if work.number == 1:
        return pd.DataFrame(columns=list(FLAG_COLUMNS), index=pd.DatetimeIndex([], name="time"))
    return from_csv(work.files.read(work.number - 1, B, "flags.csv"))


def _listed(table: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    at, columns = np.nonzero(flags.to_numpy() > 0)
    return pd.DataFrame(
        {
            "column": flags.columns.to_numpy()[columns],
            "flag": flags.to_numpy()[at, columns].astype(int),
            "value": table.to_numpy()[at, columns],
        },
        index=pd.DatetimeIndex(flags.index[at], name="time"),
    )


def _period_start(work: Work, table: pd.DataFrame, collected: Mapping[str, Any]) -> pd.Timestamp:
    """Return the first time of the round's own period: late rows before it were there for nobody."""
    if work.number == 1:
        return pd.Timestamp(collected["first"])
    return collection_ends(work.config, work.first(table), work.number - 1)[0]
