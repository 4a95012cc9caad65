"""Row L10: model error learned offline from analyses, and online through them; two-scale Lorenz-96 as truth."""

from __future__ import annotations

import tempfile
from pathlib import Path

from diffassim.experiments.framework.run import run as run_experiment
from diffassim.experiments.learning.bench import Row, Score, Settings
from diffassim.experiments.learning.correction import METHODS, Correction, CorrectionConfiguration

__all__ = ["ROW"]

SHARE = 0.8  # of the gap between offline learning and the perfect model, which online learning has to close
FORECAST = 0.5  # lead of the forecast in the notes


def configuration(settings: Settings) -> CorrectionConfiguration:
    """Return the settings of the experiment."""
    if settings.full:
        return CorrectionConfiguration(seed=settings.seed, members=32, width=64, offline_updates=2000, updates=600)
    return CorrectionConfiguration(seed=settings.seed)


def run(settings: Settings) -> list[Score]:
    """Run the experiment in a directory that goes away, and score the analyses at the ends of the windows."""
    experiment, config = Correction(), configuration(settings)
    with tempfile.TemporaryDirectory() as path:
        scores = run_experiment(experiment, config, Path(path) / "run", tell=settings.tell).scores
    slow = scores[(scores["variable"] == "slow") & (scores["metric"] == "rmse")]
    value = slow.set_index(["method", "lead"])["value"]
    analysis = {method: float(value[method, 0.0]) for method in METHODS}
    aim = analysis["offline"] - SHARE * (analysis["offline"] - analysis["perfect model"])
    return [
        Score(
            method, analysis[method], "learned" if method in ("offline", "online") else "classical",
            aim=aim if method == "online" else None,
            note=f"forecast of {FORECAST:g} time units {float(value[method, FORECAST]):.4f}",
        )
        for method in METHODS
    ]  # fmt: skip


ROW = Row(
    "L10", "model error of two-scale Lorenz-96, learned offline and online", "root mean square error of the analysis",
    "setting after Brajard et al. (2021)", run,
)  # fmt: skip
