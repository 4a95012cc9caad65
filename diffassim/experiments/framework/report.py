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

__all__ = ["described", "folded", "html_page", "html_table", "picture", "report_page", "section"]

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
    figures = [picture(name, (folder / f"{name}.png").read_bytes()) for name in results.figures]
    parts = [
        f"<h1>{html.escape(experiment.summary)}</h1>",
        f"<p>diffassim run <code>{html.escape(experiment.name)}</code></p>",
        section("What was done", described(experiment)),
        section("Figures", "\n".join(figures) or "<p>none</p>"),
        section("Scores, beside those of simple methods", f"<pre>{html.escape(results.table.rstrip())}</pre>"),
        *(
            section(name.capitalize(), folded(f"{len(table)} rows", html_table(table)))
            for name, table in results.tables.items()
        ),
        section("All scores", folded(f"{len(results.scores)} rows", html_table(results.scores))),
        section("Settings", f"<pre>{html.escape(settings.rstrip())}</pre>"),
        section("Made with", f"<pre>{html.escape(json.dumps(provenance, indent=2))}</pre>"),
    ]
    return html_page(experiment.name, parts)


def html_page(title: str, parts: list[str]) -> str:
    """Return a page that loads nothing."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def picture(name: str, content: bytes) -> str:
    """Return a figure inside of the page."""
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(name.replace("_", " "))}" src="data:image/png;base64,{encoded}">'


def section(title: str, body: str) -> str:
    """Return a part of the page under its heading."""
    return f"<h2>{html.escape(title)}</h2>\n{body}"


def folded(title: str, body: str) -> str:
    """Return what is shown where somebody asks for it."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def described(experiment: Any) -> str:
    """Return the experiment's own description, without what is there for programmers."""
    text = (inspect.getdoc(type(experiment)) or experiment.summary).split("\n\n")
    plain = [part for part in text if not re.match(r"(Args|Example|Raises|Source):", part)]
    marked = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(part.split()))) for part in plain)
    return "\n".join(f"<p>{part}</p>" for part in marked)


def html_table(scores: pd.DataFrame) -> str:
    """Return a table with numbers of four digits."""
    shown = scores.copy()
    for name in (name for name in shown.columns if shown[name].dtype.kind == "f"):
        shown[name] = [f"{value:.{DIGITS}g}" for value in shown[name]]
    return f'<div class="wide">{shown.to_html(index=False, border=0, escape=True)}</div>'
