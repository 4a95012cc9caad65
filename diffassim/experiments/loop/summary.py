"""What the rounds have come to: decisions, the first two models on the same later rows, drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.experiments.loop.artifacts import STAGES, LoopFiles, from_csv
from diffassim.experiments.loop.comparison import LOSS_COLUMNS, compare, model_scores, rmse_difference
from diffassim.experiments.loop.ledger import in_use, read_model, rollbacks

__all__ = ["Summary", "as_text", "summarized"]

A, B, C, D, E, F, G = STAGES


class Summary(NamedTuple):
    """All rounds that are finished.

    Args:
        rounds: a row for each round.
        later: losses of models on rows that they did not know.
        pair: numbers of the models that were in use after the first two rounds; empty where there are none yet.
        scores: tidy scores of these two on the rows collected after the second round.
        differences: of the second against the first by lead: RMSE with its interval.
        test: the same, by CRPS over all leads.
        statistic: squared departures over their reference, by time.
        alarms: times at which a drift was found.
        lineage: which model came from which, with its numbers.
        current: promoted models, the one in use last.
        rolled_back: all rollbacks.
    """

    rounds: pd.DataFrame
    later: pd.DataFrame
    pair: tuple[int, ...]
    scores: pd.DataFrame
    differences: pd.DataFrame
    test: dict[str, Any] | None
    statistic: pd.Series
    alarms: list[str]
    lineage: pd.DataFrame
    current: list[int]
    rolled_back: list[dict[str, Any]]


def summarized(files: LoopFiles, experiment: Any, config: Any) -> Summary:
    """Return the summary of all finished rounds, from their files."""
    done = [n for n in range(1, files.count() + 1) if files.finished(n, G)]
    rows = pd.DataFrame([_round(files, n) for n in done], index=pd.Index(done, name="round"))
    later = {n: from_csv(files.read(n, E, "later.csv")) for n in done if (files.stage(n, E) / "later.csv").is_file()}
    pair = tuple(dict.fromkeys(m for n in (1, 2) if n in done for m in in_use(files, after=n)[-1:]))
    known = [part for n, part in later.items() if n > 2]
    scores, differences, test = model_scores(_no_losses(), ""), pd.DataFrame(), None
    if len(pair) == 2 and known:
        both = pd.concat(known)
        both = both[both["model"].isin(pair)]
        scores = model_scores(both, experiment.learner.variable)
        test = compare(both, pair[1], pair[0])._asdict()
        found = {
            int(lead): rmse_difference(both, pair[0], pair[1], lead, experiment.learner.block, config.seed)
            for lead in sorted(both["lead"].unique())
        }
        differences = pd.DataFrame(found, index=["difference", "lower", "upper"]).T.rename_axis("lead")
    alarms = [time for n in done for time in files.read_json(n, G, "feedback.json")["alarms"]]
    return Summary(
        rows,
        pd.concat(later.values()) if later else _no_losses(),
        pair if len(pair) == 2 else (),
        scores,
        differences,
        test,
        _statistic(files, done),
        alarms,
        _lineage(files, experiment, done),
        in_use(files),
        rollbacks(files),
    )


def as_text(found: Summary, unit: str) -> str:
    """Return the summary for the command line."""
    lines = ["round  rows  flagged  challenger against incumbent (CRPS)                 promoted  drift"]
    for number, row in found.rounds.iterrows():
        shown = "no incumbent"
        if np.isfinite(row["difference"]):
            shown = f"{row['difference']:+.1f} % [{row['lower']:+.1f}, {row['upper']:+.1f}], confidence {row['confidence']:.3f}"
        elif row["skipped"]:
            shown = str(row["skipped"])[:50]
        promoted, drift = ("yes" if row["promoted"] else "no"), ("found" if row["drift"] else "no")
        lines.append(f"{number:5d} {row['rows']:5d} {row['flagged']:8d}  {shown:<52s}{promoted:<10s}{drift}")
    if found.current:
        former = f", former model {found.current[-2]}" if len(found.current) > 1 else ""
        lines.append(f"in use: model {found.current[-1]}{former}")
    for entry in found.rolled_back:
        lines.append(f"rolled back after round {entry['after_round']}: from model {entry['from']} to {entry['to']}")
    if found.pair:
        first, second = found.pair
        lines += ["", f"models {first} and {second} (after the first two rounds) on all rows collected after round 2"]
        table = found.scores.pivot_table(index=["metric", "method"], columns="lead", values="value")
        lines += [f"  {'metric':<8s}{'':<12s}" + "".join(f"{f'+{lead}':>9}" for lead in table.columns)]
        for (metric, method), values in table.iterrows():
            lines.append(f"  {metric:<8s}{method:<12s}" + "".join(f"{value:9.3f}" for value in values))
        name = f"RMSE of model {second} minus model {first}" + (f", {unit}" if unit != "1" else "")
        lines.append(f"  {name}, 95 % interval:")
        lines += [
            f"    +{lead}: {row['difference']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]"
            for lead, row in found.differences.iterrows()
        ]
        if found.test is not None:
            lines.append(
                f"  CRPS, all leads: {100 * found.test['difference']:+.1f} % "
                f"[{100 * found.test['lower']:+.1f}, {100 * found.test['upper']:+.1f}]"
            )
    return "\n".join(lines)


def _no_losses() -> pd.DataFrame:
    return pd.DataFrame(columns=list(LOSS_COLUMNS), index=pd.DatetimeIndex([], name="time"))


def _round(files: LoopFiles, number: int) -> dict[str, Any]:
    collected, prepared = files.read_json(number, A, "collected.json"), files.read_json(number, B, "prepared.json")
    evaluation, decision = files.read_json(number, E, "evaluation.json"), files.read_json(number, F, "decision.json")
    told, test = files.read_json(number, G, "feedback.json"), evaluation["comparison"] or {}

    def percent(name: str) -> float:
        value = test.get(name)
        return float("nan") if value is None else 100 * value

    return {
        "until": collected["until"],
        "rows": collected["new"],
        **{name: collected[name] for name in ("late", "corrected", "repeated", "out_of_order")},
        "flagged": sum(prepared["flagged"].values()),
        "flags": ", ".join(f"{count} {flag}" for flag, count in sorted(prepared["flagged"].items())),
        "incumbent": "" if prepared["incumbent"] is None else f"model {prepared['incumbent']}",
        "difference": percent("difference"),
        "lower": percent("lower"),
        "upper": percent("upper"),
        "confidence": float("nan") if test.get("confidence") is None else test["confidence"],
        "promoted": decision["promoted"],
        "reason": decision["reason"],
        "skipped": evaluation["skipped"],
        "spread": told["spread"],
        "drift": told["drift"],
        "alarms": len(told["alarms"]),
    }


def _statistic(files: LoopFiles, done: list[int]) -> pd.Series:
    parts = []
    for number in done:
        incumbent = files.read_json(number, B, "prepared.json")["incumbent"]
        if incumbent is None or not (files.stage(number, B) / "statistic.csv").is_file():
            continue
        reference = read_model(files, incumbent)["reference"]["mean"]
        if reference:
            parts.append(from_csv(files.read(number, B, "statistic.csv"))["statistic"] / reference)
    return pd.concat(parts) if parts else pd.Series(dtype=float)


def _lineage(files: LoopFiles, experiment: Any, done: list[int]) -> pd.DataFrame:
    rows = []
    for number in done:
        if files.model(number).is_file():
            model = read_model(files, number)
            source, (sums,) = model["from"], model["lineage"].values()
            came = "" if source is None else f"model {source}"
            rows.append({"model": number, "from": came, "lineage": sums[:16], **experiment.learner.describe(model["model"])})
    return pd.DataFrame(rows)
