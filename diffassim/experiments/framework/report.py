"""One self-contained page about a finished run."""

from __future__ import annotations

import base64
import html
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from diffassim.experiments.framework.base import Results

__all__ = ["report_page"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
pre, .wide { overflow-x: auto; }
pre { background: #f5f5f5; padding: .7rem; font-size: .8rem; line-height: 1.35; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:nth-child(n+5) { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; }
"""
DIGITS = 4


def report_page(experiment: Any, results: Results, settings: str, provenance: dict[str, Any], folder: Path) -> str:
    """Return the page as HTML: what was done, the scores, the figures, the settings, and what made it.

    Everything is inside of the page, so that it can be sent and kept as one file; it loads nothing.

    Args:
        experiment: the experiment.
        results: of the run.
        settings: the exact configuration, TOML.
        provenance: seed, versions, times.
        folder: the run's directory, which holds the figures.
    """
    figures = [
        f'<img alt="{html.escape(name.replace("_", " "))}" src="data:image/png;base64,'
        f'{base64.b64encode((folder / f"{name}.png").read_bytes()).decode()}">'
        for name in results.figures
    ]
    parts = [
        f"<h1>{html.escape(experiment.summary)}</h1>",
        f"<p>diffassim run <code>{html.escape(experiment.name)}</code></p>",
        _section("What was done", _words(experiment)),
        _section("Figures", "\n".join(figures) or "<p>none</p>"),
        _section("Scores, beside those of simple methods", f"<pre>{html.escape(results.table.rstrip())}</pre>"),
        *(
            _section(name.capitalize(), _folded(f"{len(table)} rows", _table(table)))
            for name, table in results.tables.items()
        ),
        _section("All scores", _folded(f"{len(results.scores)} rows", _table(results.scores))),
        _section("Settings", f"<pre>{html.escape(settings.rstrip())}</pre>"),
        _section("Made with", f"<pre>{html.escape(json.dumps(provenance, indent=2))}</pre>"),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(experiment.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{body}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def _words(experiment: Any) -> str:
    """Return the experiment's own description, without what is there for programmers."""
    text = (inspect.getdoc(type(experiment)) or experiment.summary).split("\n\n")
    plain = [part for part in text if not re.match(r"(Args|Example|Raises|Source):", part)]
    marked = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(part.split()))) for part in plain)
    return "\n".join(f"<p>{part}</p>" for part in marked)


def _table(scores: pd.DataFrame) -> str:
    shown = scores.copy()
    for name in (name for name in shown.columns if shown[name].dtype.kind == "f"):
        shown[name] = [f"{value:.{DIGITS}g}" for value in shown[name]]
    return f'<div class="wide">{shown.to_html(index=False, border=0, escape=True)}</div>'
