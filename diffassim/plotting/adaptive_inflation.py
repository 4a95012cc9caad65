"""Errors by regime, and what happens where a regime changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffassim.plotting.learning import draw_learning_curves
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["courses", "overview"]

_SHOWN = ("black", "gray", "blue", "green", "sky", "red", "orange", "purple")
_MARKS = "|x+svoD^"


def overview(
    ratios: Mapping[str, Any], regimes: Sequence[str], changed: Sequence[str], labels: Sequence[str]
) -> Figure:
    """Return a figure of errors over that of the best constant, by regime.

    Args:
        ratios: by filter, shape (method, regime, twin).
        regimes: their names.
        changed: those that change in the middle, which are marked.
        labels: of the methods; the first is the best constant.
    """
    with style():
        drawn = figure(10.0, 5.2)
        axes = np.atleast_1d(drawn.subplots(1, len(ratios), sharey=True))
        places = np.arange(len(regimes))[::-1]
        for k, (ax, (name, found)) in enumerate(zip(axes, ratios.items(), strict=True)):
            ax.axvline(1.0, color=COLORS["black"], linewidth=0.8)
            ax.axvspan(0.98, 1.02, color=COLORS["gray"], alpha=0.2, linewidth=0)
            count = len(labels) - 1
            for m in range(1, len(labels)):
                twins = found.shape[2]
                error = found[m].std(1, ddof=1) / twins**0.5 if twins > 1 else None
                ax.errorbar(
                    found[m].mean(1), places + 0.5 * (count / 2 - m) / count,
                    xerr=None if error is None else 2 * error, fmt=_MARKS[m % len(_MARKS)],
                    color=COLORS[_SHOWN[m % len(_SHOWN)]], markersize=4, elinewidth=0.7, label=labels[m],
                )  # fmt: skip
            ax.set(xlabel="error over that of the best constant", xlim=(0.75, 1.5))
            bars = "bars: two standard errors" if found.shape[2] > 1 else "one twin, no bars"
            panel_label(ax, "ab"[k % 2], f"{name}; {bars}")
        names = [f"{'* ' if name in changed else ''}{name}" for name in regimes]
        axes[0].set_yticks(places, names)
        handles, names = axes[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=len(labels) - 1)
    return drawn


def courses(
    shown: Mapping[str, Mapping[str, Any]],
    regimes: Sequence[str],
    changes: Sequence[str],
    labels: Sequence[str],
    trainings: Sequence[str],
    half: int,
) -> Figure:
    """Return a figure of inflation and errors where regimes change, and of the trainings.

    Args:
        shown: by filter: `error_course` and `factor_course`, shape (method, regime, analysis), `curve`, shape
            (training, copy, point).
        regimes: their names.
        changes: the ones to be drawn.
        labels: of the methods.
        trainings: names of the trainings.
        half: analysis at which regimes change.
    """
    name, found = next(iter(shown.items()))
    drawn_methods = ["best constant", "adaptive", *trainings[:1]]
    with style():
        drawn = figure(10.0, 6.4)
        axes = drawn.subplots(2, 3)
        for column, change in enumerate(changes):
            r = list(regimes).index(change)
            for row, (key, what) in enumerate((("factor_course", "factor of the variance"), ("error_course", "error"))):
                ax = axes[row, column]
                for label in drawn_methods:
                    m = list(labels).index(label)
                    course = _smooth(found[key][m, r])
                    ax.plot(course, color=COLORS[_SHOWN[m % len(_SHOWN)]], label=label)
                ax.axvline(half, color=COLORS["gray"], linewidth=0.8, linestyle=":")
                ax.set(xlabel="analysis", ylabel=what)
                panel_label(ax, "abcd"[2 * row + column], f"{name}, {change}")
        axes[0, 0].legend()
        for row, (name, found) in enumerate(list(shown.items())[:2]):
            ax = axes[row, 2]
            curves = {
                how: curve - np.nanmean(curve[:, 0])
                for how, curve in zip(trainings, found["curve"], strict=True)
                if np.isfinite(curve).all(axis=0).any()
            }
            ax.set_visible(bool(curves))  # policies of a file come without
            if not curves:
                continue
            shades = {how: COLORS[_SHOWN[list(labels).index(how) % len(_SHOWN)]] for how in trainings}
            draw_learning_curves(ax, curves, colors=shades)
            ax.set_ylabel("reward above the first")
            copies = next(iter(curves.values())).shape[0]
            bands = "one copy, no bands" if copies == 1 else f"bands: intervals of the mean over {copies} copies"
            panel_label(ax, "ef"[row], f"{name}; {bands}")
        for ax in axes[len(shown) :, 2]:
            ax.set_visible(False)
    return drawn


def _smooth(course: Any) -> Any:
    """Return running means over five analyses."""
    return np.convolve(course, np.full(5, 0.2), mode="valid")
