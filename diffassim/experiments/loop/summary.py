"""What the rounds have come to: decisions, the first two models on the same later rows, drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.experiments.loop.artifacts import STAGES, LoopFiles, from_csv
from diffassim.experiments.loop.comparison import LOSS_COLUMNS, Comparison, compare, model_scores, rmse_difference
from diffassim.experiments.loop.ledger import in_use, read_model, rollbacks

__all__ = ["Summary", "as_text", "summarized"]

A, B, C, D, E, F, G = STAGES
PAIR_COLUMNS = ("rows", "lead", "metric", "first", "second", "difference", "lower", "upper", "n")


class Summary(NamedTuple):
    """All rounds that are finished.

    Args:
        rounds: a row for each round.
        later: losses of models on rows that they did not know.
        pair: numbers of the models that were in use after the first two rounds; empty where there are none yet.
        scores: of these two on the same later rows, columns `PAIR_COLUMNS`.
        tests: of the second against the first, by CRPS over all leads, for the rows of each later round and of all.
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
    tests: dict[str, Comparison]
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
    compared = []
    known = {f"of round {n}": part[part["model"].isin(pair)] for n, part in later.items() if n > 2}
    if len(pair) == 2 and known:
        first = next(iter(known))  # in which the second model was the one in use, as a rule
        parts = {first: known[first]} | ({"of all later rounds": pd.concat(known.values())} if len(known) > 1 else {})
        compared = [_compared(name, part, pair, experiment.learner, config.seed) for name, part in parts.items()]
        tests = {name: compare(part, pair[1], pair[0]) for name, part in {**known, **parts}.items()}
    else:
        tests = {}
    alarms = [time for n in done for time in files.read_json(n, G, "feedback.json")["alarms"]]
    return Summary(
        rows,
        pd.concat(later.values()) if later else _no_losses(),
        pair if len(pair) == 2 else (),
        pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(PAIR_COLUMNS)),
        tests,
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
            interval = f"[{row['lower']:+.1f}, {row['upper']:+.1f}]"
            shown = f"{row['difference']:+.1f} % {interval}, confidence {row['confidence']:.3f}"
        elif row["skipped"]:
            shown = str(row["skipped"])[:50]
        promoted, drift = ("yes" if row["promoted"] else "no"), ("found" if row["drift"] else "no")
        lines.append(f"{number:5d} {row['rows']:5d} {row['flagged']:8d}  {shown:<52s}{promoted:<10s}{drift}")
    if found.current:
        former = f", former model {found.current[-2]}" if len(found.current) > 1 else ""
        lines.append(f"in use: model {found.current[-1]}{former}")
    for entry in found.rolled_back:
        lines.append(f"rolled back after round {entry['after_round']}: from model {entry['from']} to {entry['to']}")
    if found.tests:
        first, second = found.pair
        lines += ["", f"models {first} and {second} (in use after the first two rounds) on the same later rows"]
        name = f"RMSE, {unit}" if unit != "1" else "RMSE"
        names = f"{f'model {first}':>10s}{f'model {second}':>10s}"
        lines.append(f"  {'rows':<22s}{'lead':>5s} {'metric':<6s}{names}  change")
        for _, row in found.scores.iterrows():
            shown = (
                f"  {row['rows']:<22s}{row['lead']:>+5d} {row['metric']:<6s}{row['first']:10.3f}{row['second']:10.3f}"
            )
            change = f"  {row['difference']:+.3f}"
            if np.isfinite(row["lower"]):
                change += f" [{row['lower']:+.3f}, {row['upper']:+.3f}]"
            lines.append(shown + change)
        lines.append(f"  ({name} with 95 % intervals) CRPS over all leads:")
        for label, test in found.tests.items():
            lines.append(
                f"    rows {label}: {100 * test.difference:+.1f} % [{100 * test.lower:+.1f}, {100 * test.upper:+.1f}]"
            )
    return "\n".join(lines)


def _compared(rows: str, losses: pd.DataFrame, pair: tuple[int, ...], learner: Any, seed: int) -> pd.DataFrame:
    """Return the scores of two models by lead, RMSE with the interval of its difference."""
    first, second = (f"model {number}" for number in pair)
    table = model_scores(losses, learner.variable)
    wide = table.pivot_table(index=["lead", "metric"], columns="method", values="value")
    counts = table.groupby("lead")["n"].min()
    found = []
    for lead, metric in wide.index:
        a, b = wide.loc[(lead, metric), first], wide.loc[(lead, metric), second]
        lower = upper = float("nan")
        if metric == "rmse":
            _, lower, upper = rmse_difference(losses, pair[0], pair[1], lead, learner.block, seed)
        found.append((rows, int(lead), metric, a, b, b - a, lower, upper, int(counts[lead])))
    return pd.DataFrame(found, columns=list(PAIR_COLUMNS))


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
        **{name: collected.get(name, 0) for name in ("late", "corrected", "repeated", "withdrawn", "out_of_order")},
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
            rows.append(
                {"model": number, "from": came, "lineage": sums[:16], **experiment.learner.describe(model["model"])}
            )
    return pd.DataFrame(rows)
