"""The page about a loop, its table and figure, and the manifest of everything that it is made of."""

from __future__ import annotations

import html
import io
from typing import Any

from diffassim.experiments.framework.report import described, folded, html_page, html_table, picture, section
from diffassim.experiments.framework.run_directory import versions
from diffassim.experiments.loop.artifacts import MANIFEST, LoopFiles, as_json, checksum
from diffassim.experiments.loop.summary import Summary, as_text, summarized
from diffassim.plotting.loop import rounds_overview

__all__ = ["write_page"]

LIVELY = {"log.txt", "lock", MANIFEST}  # what differs from run to run
SHOWN = ("until", "rows", "late", "corrected", "repeated", "withdrawn", "out_of_order", "flags")
DECIDED = ("incumbent", "difference", "lower", "upper", "confidence", "promoted", "reason", "spread", "drift", "alarms")


def write_page(files: LoopFiles, experiment: Any, config: Any) -> str:
    """Write index.html, scores.csv, table.txt, rounds.png and manifest.json, and return the table as text."""
    found = summarized(files, experiment, config)
    if found.rounds.empty:
        return "no round is finished yet"
    unit = experiment.learner.unit
    drawn = rounds_overview(found.rounds, found.later, found.scores, found.statistic, found.alarms, unit)
    image = io.BytesIO()
    drawn.savefig(image, dpi=150, format="png")
    text = as_text(found, unit)
    files.write(files.path / "rounds.png", image.getvalue())
    files.write(files.path / "table.txt", (text + "\n").encode())
    files.write(files.path / "scores.csv", found.scores.to_csv(index=False, lineterminator="\n").encode())
    parts = _parts(files, experiment, found, text, image.getvalue())
    files.write(files.path / "index.html", html_page(experiment.name, parts).encode())
    sums = {
        str(path.relative_to(files.path)): checksum(path.read_bytes())
        for path in sorted(files.path.rglob("*"))
        if (path.is_file() and path.name not in LIVELY) or (path.name == MANIFEST and path.parent != files.path)
    }
    files.write(files.path / MANIFEST, as_json(sums))
    return text


def _parts(files: LoopFiles, experiment: Any, found: Summary, text: str, image: bytes) -> list[str]:
    rounds = found.rounds.reset_index()
    settings = html.escape(files.config.read_text("utf-8").rstrip())
    return [
        f"<h1>{html.escape(experiment.summary)}</h1>",
        f"<p>diffassim loop <code>{html.escape(experiment.name)}</code></p>",
        section("What is done", described(experiment)),
        section("Rounds", f"<pre>{html.escape(text)}</pre>"),
        picture("rounds", image),
        section("Collected", html_table(rounds[["round", *SHOWN]])),
        section(
            "Compared, promoted, fed back (differences of CRPS in percent)", html_table(rounds[["round", *DECIDED]])
        ),
        section("Models", html_table(found.lineage)),
        section("The first two rounds on the same later rows", html_table(found.scores)),
        section("Settings", f"<pre>{settings}</pre>"),
        section("Made with", folded("versions", f"<pre>{html.escape(as_json(versions()).decode())}</pre>")),
    ]
