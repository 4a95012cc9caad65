"""Methods with their documented scores, by set-up: facts that `rerun` is compared with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from diffassim.covariances import Diagonal
from diffassim.cycling import FourDVar
from diffassim.ensemble import (
    EAKF,
    ETKF,
    LETKF,
    DEnKF,
    EnKF,
    EnKFN,
    EnSRF,
    GaspariCohn,
    IEnKS,
    KernelParticleFilter,
    LocalIEnKS,
    ParticleFilter,
    SecondOrderExactEnKF,
    SerialEnKF,
)
from diffassim.experiments.literature.setups import SETUPS, Setup
from diffassim.gaussian import EKF, Climatology, CycledThreeDVar, OptimalInterpolation
from diffassim.variational import GaussNewton

__all__ = ["LEFT_OUT", "ROWS", "OfClimatology", "Persistence", "Row", "find_rows"]


@dataclasses.dataclass(frozen=True)
class OfClimatology:
    """A method that is built from the climatology of the truth.

    Args:
        build: takes a `Gaussian` and returns the method.
    """

    build: Callable[[Any], Any]


class Persistence:
    """The true state of the observation time before, as a yardstick."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A method in a set-up, with its documented time-mean error of the analysis.

    Args:
        case: name of the set-up.
        label: of the method, unique within the case.
        method: the method, `OfClimatology`, or `Persistence`.
        documented: published score: mean over time of the root-mean-square error over the state. Of a smoother that at
            the end of the window.
        members: number of members or particles.
        lag: observation times in a window, which moves on by one; 0 for a filter.
        rerun: score, and its standard error, of our own runs of the program that documents the score.
        cycles: observation times of a run, where they differ from those of the set-up.
        loses: share of runs of this length that lose the truth, as measured here; 0 where none was seen to.
        ours: measured score where the documented one is not reached.
        note: why it is not reached, or what else to know.
        line: of the documenting file, or its name where it is another one than that of the set-up.
        changed: the set-up, where it is not that of the case.
    """

    case: str
    label: str
    method: Any
    documented: float
    members: int = 1
    lag: int = 0
    rerun: tuple[float, float] | None = None
    cycles: int | None = None
    loses: float = 0.0
    ours: float | None = None
    note: str = ""
    line: str = ""
    changed: Setup | None = None

    @property
    def setup(self) -> Setup:
        """The set-up: that of the case, unless it was changed."""
        return SETUPS[self.case] if self.changed is None else self.changed

    @property
    def name(self) -> str:
        """Case and label."""
        return f"{self.case}: {self.label}"

    @property
    def length(self) -> int:
        """Observation times of one run."""
        return self.cycles or self.setup.cycles


def find_rows(case: str = "", method: str = "", rows: Sequence[Row] | None = None) -> list[Row]:
    """Return the rows whose case and label contain these words, whatever their case.

    Args:
        case: part of the name of a set-up.
        method: part of a label.
        rows: where to look; default: `ROWS`.

    Example:
        >>> [row.label for row in find_rows("lorenz96/sakov", "letkf")]
        ['LETKF 1.04, radius 4, rotated']
    """
    rows = ROWS if rows is None else rows
    return [row for row in rows if case.lower() in row.case.lower() and method.lower() in row.label.lower()]


def _case(case: str, *rows: Row) -> list[Row]:
    return [dataclasses.replace(row, case=case) for row in rows]


def _row(
    label: str, method: Any, members: int, documented: float, line: int | str = "", *rerun: float, **more: Any
) -> Row:
    pair = (rerun[0], rerun[1]) if rerun else None
    return Row("", label, method, documented, members, line=str(line), rerun=pair, **more)


def _extended(growth: float, case: str) -> EKF:
    """The covariance grows by a factor per unit of time; here its columns grow by the root of it per cycle."""
    setup = SETUPS[case]
    return EKF(growth ** (float(setup.model.dt) * setup.interval / 2))


def _three_d_var(scale: float) -> OfClimatology:
    return OfClimatology(lambda climate: CycledThreeDVar(climate, scale=scale))


def _four_d_var(variance: float) -> FourDVar:
    return FourDVar(Diagonal(std=variance**0.5), GaussNewton(tolerance=1e-2, max_iterations=10, growth=None))


def _taper(half_width: float) -> GaspariCohn:
    return GaspariCohn(half_width / math.sqrt(10 / 3))


def _half_observed(
    case: str, scores: tuple[float, ...], lines: tuple[int, ...], reruns: tuple[Any, ...], ours: tuple[float, ...]
) -> list[Row]:
    """Return the rows of half-observed cases; reruns and our scores belong to the first of them."""
    methods = [
        ("EnKF-N 1.01, rotated", EnKFN(1.01, True), 24, 0),
        ("IEnKS 1.04, lag 2", IEnKS(1.04), 19, 2),
        ("IEnKS-N, prior 1.5, lag 2", IEnKS(finite_size=1.5), 19, 2),
        ("particle filter 1.2", ParticleFilter(0.2, 1.2), 3000, 0),
        ("particle filter 1.1", ParticleFilter(0.1, 1.1), 5000, 0),
        ("particle filter .8", ParticleFilter(0.05, 0.8), 10_000, 0),
    ]
    return _case(case, *(
        _row(
            label, method, members, score, line, *(rerun or ()), lag=lag, ours=measured,
            note="documented for one short run, as slightly unreliable" if measured else "",
        )
        for (label, method, members, lag), score, line, rerun, measured in itertools.zip_longest(
            methods, scores, lines, reruns, ours
        )
    ))  # fmt: skip


_CLIMATOLOGY, _OPTIMAL = OfClimatology(Climatology), OfClimatology(OptimalInterpolation)
_L63, _L96, _UV, _KS = (
    "lorenz63/sakov2012", "lorenz96/sakov2008", "lorenz-two-scale/wilks2005", "kuramoto-sivashinsky/bocquet2019",
)  # fmt: skip
_L96_4, _L96_8, _L96_12 = (
    "lorenz96/sakov2008, every 4 steps", "lorenz96/bocquet2015, every 8 steps", "lorenz96/sakov2008, every 12 steps",
)  # fmt: skip
_HALF, _NOISY = "lorenz96/bocquet2010", "lorenz96/bocquet2010, more noise"
_BASIC = "docs/examples/basic_2.py"
# Twenty iterations instead of ten, after which some of these long windows have not converged.
_LONG = IEnKS(rotation=True, max_iterations=20)
# Domains move by six points in a unit of time; of lag 10 there are four iterations.
_LOCAL = LocalIEnKS(rotation=True, localization=_taper(12.0), velocity=6 * 0.05)
_LOCAL_LAG = _LOCAL.replace(max_iterations=4)

ROWS: list[Row] = [
    *_case(
        _L63,
        _row("climatology", _CLIMATOLOGY, 1, 7.6, 28, 7.5945, 0.1309),
        _row("persistence", Persistence(), 1, 10.7, _BASIC),
        _row("optimal interpolation", _OPTIMAL, 1, 1.25, 29, 1.2341, 0.0076),
        _row("3D-Var .1", _three_d_var(0.1), 1, 1.04, 30, 1.025, 0.0105),
        _row("3D-Var .1, again", _three_d_var(0.1), 1, 1.03, _BASIC, 1.025, 0.0105),
        _row("EKF 180", _extended(180, _L63), 1, 0.92, 31, 0.8999, 0.0223),
        _row(
            "EKF 90", _extended(90, _L63), 1, 0.87, _BASIC, 0.9211, 0.0058, ours=0.98,
            note="documented for the tangent of an Euler step, which stretches the covariance more than the exact one",
        ),
        _row("ETKF 1.3", ETKF(1.3), 3, 0.80, 32, 0.7628, 0.0328),
        _row("ETKF 1.3, again", ETKF(1.3), 3, 0.82, _BASIC, 0.7628, 0.0328),
        _row("ETKF 1.02, rotated", ETKF(1.02, True), 10, 0.60, 33, 0.5563, 0.0109),
        _row("ETKF 1.02, rotated, again", ETKF(1.02, True), 10, 0.63, _BASIC, 0.5563, 0.0109),
        _row("EnKF 1.04", EnKF(1.04), 10, 0.65, 34, 0.5579, 0.0246),
        _row("EnKF 1.01", EnKF(1.01), 100, 0.56, 35, 0.5534, 0.008),
        _row(
            "EnKF .95", EnKF(0.95), 500, 0.56, _BASIC, cycles=500, loses=0.1,
            note="deflated members: one of ten runs loses the truth (five more: .558 +- .014)",
        ),
        _row("EnKF-N", EnKFN(), 3, 0.60, 36, 0.6099, 0.0312),
        _row("EnKF-N, rotated", EnKFN(rotation=True), 10, 0.54, 37, 0.5435, 0.0086),
        _row("IEnKS 1.02, lag 1, rotated", IEnKS(1.02, True), 10, 0.31, 38, 0.2904, 0.0173, lag=1),
        _row(
            "particle filter 2.4", ParticleFilter(0.3, 2.4), 100, 0.38, 39, 0.3503, 0.0163, loses=0.08,
            note="3 of 40 runs lose the truth for hundreds of cycles",
        ),
        _row("particle filter .9", ParticleFilter(0.2, 0.9), 800, 0.28, 40, 0.2727, 0.0064),
        _row("particle filter .7", ParticleFilter(0.05, 0.7), 4000, 0.27, 41),
        _row(
            "particle filter, kernels 2, 1000 draws", KernelParticleFilter(0.2, kernel=2.0, draws=1000), 30, 0.56, 42,
            0.5475, 0.0113,
        ),
    ),
    *_case(
        _L96,
        _row("climatology", _CLIMATOLOGY, 1, 3.6, 58, 3.6791, 0.0264),
        _row("optimal interpolation", _OPTIMAL, 1, 0.95, 59, 0.9464, 0.0011),
        _row("3D-Var .02", _three_d_var(0.02), 1, 0.41, 60, 0.4105, 0.0021),
        _row("EKF 10", _extended(10, _L96), 1, 0.24, 61, 0.2368, 0.0016),
        _row("EKF 6", _extended(6, _L96), 1, 0.24, _BASIC),
        _row("EnKF 1.06", EnKF(1.06), 40, 0.22, 43, 0.2168, 0.0015),
        _row("DEnKF 1.01", DEnKF(1.01), 40, 0.18, 44, 0.1778, 0.0014),
        _row("EnKF 1.08", EnKF(1.08), 28, 0.24, 45, 0.2564, 0.0094),
        _row(
            "ETKF 1.013, rotated", ETKF(1.013, True), 24, 0.18, 46, 0.1771, 0.0016, loses=0.1,
            note="so little inflation that 4 of 40 runs lose the truth; of the documenting program one of two did",
        ),
        _row("ETKF 1.02, rotated", ETKF(1.02, True), 28, 0.18, _BASIC, 0.1772, 0.0014),
        _row("EnSRF 1.02, rotated", EnSRF(1.02, True), 28, 0.18, 49, 0.1781, 0.0014),
        _row("second-order exact EnKF 1.02", SecondOrderExactEnKF(1.02), 28, 0.18, 50),
        _row("EnKF-N, rotated", EnKFN(rotation=True), 24, 0.21, 54, 0.217, 0.0014),
        _row("EnKF-N, prior 2, rotated", EnKFN(rotation=True, exponent=2.0), 24, 0.18, 55, 0.1756, 0.0015),
        _row("EnKF-N, prior 2, rotated, again", EnKFN(rotation=True, exponent=2.0), 24, 0.18, _BASIC, 0.1756, 0.0015),
        _row("LETKF 1.04, radius 4, rotated", LETKF(1.04, True, GaspariCohn(4.0)), 7, 0.22, 67, 0.2153, 0.0016),
        _row("EAKF 1.07, radius 6, rotated", EAKF(1.07, True, GaspariCohn(6.0)), 7, 0.23, 68, 0.2284, 0.0018),
        _row("serial EnKF 1.08", SerialEnKF(1.08), 28, 0.24, 51, 0.2635, 0.0101),
        _row("ETKF 1.04, rotated", ETKF(1.04, True), 20, 0.20, 78),
        _row(
            "EnKF-N", EnKFN(), 20, 0.24, 81, 0.2535, 0.0022, ours=0.251,
            note="that program itself, run over longer times, has what is measured here",
        ),
        _row("EnKF-N, prior 2", EnKFN(exponent=2.0), 20, 0.19, 82),
        _row("IEnKS 1.01, lag 1, rotated", IEnKS(1.01, True), 40, 0.17, _BASIC, 0.204, 0.0095, lag=1, cycles=1200),
        _row("IEnKS 1.01, lag 10, rotated", IEnKS(1.01, True), 40, 0.17, _BASIC, lag=10, cycles=1200),
        _row(
            "local IEnKS 1.02, radius 12, lag 10, rotated", _LOCAL_LAG.replace(inflation=1.02), 10, 0.17,
            "bocquet2015loc.py", lag=10, cycles=1200,
        ),
        _row(
            "local IEnKS-N, radius 12, lag 10, rotated", _LOCAL_LAG.replace(finite_size=1.0), 10, 0.18,
            "bocquet2015loc.py", lag=10, cycles=1200,
        ),
        *(
            _row(f"particle filter {jitter:g}, threshold {threshold:g}".replace(" 0.", " ."),
                 ParticleFilter(threshold, jitter), 3000, documented, "table at its end", cycles=1400)
            for threshold, jitter, documented in (
                (0.05, 1.2, 0.35), (0.05, 1.6, 0.41), (0.5, 0.7, 0.26), (0.5, 0.9, 0.30), (0.5, 1.2, 0.36)
            )
        ),
    ),
    *_case(
        _L96_4,
        _row("IEnKS-N, prior 2, lag 4", IEnKS(finite_size=2.0), 20, 0.31, 87, 0.2946, 0.0081, lag=4),
        _row("4D-Var .2, lag 1", _four_d_var(0.2), 1, 0.46, 88, 0.4633, 0.0125, lag=1),
        _row("4D-Var .1, lag 2", _four_d_var(0.1), 1, 0.39, 89, 0.4022, 0.0103, lag=2),
        _row("4D-Var .02, lag 4", _four_d_var(0.02), 1, 0.37, 90, 0.3831, 0.0126, lag=4),
        _row("4D-Var .015, lag 6", _four_d_var(0.015), 1, 0.385, 92, lag=6),
    ),
    *_case(
        _L96_8,
        _row("IEnKS-N, lag 1", IEnKS(finite_size=1.0), 20, 0.40, "", 0.4119, 0.0125, lag=1),
        _row(
            "local IEnKS 1.07, radius 12, lag 1, rotated", _LOCAL.replace(inflation=1.07), 10, 0.42, lag=1, ours=0.45,
            note="documented for an older release; without the finite-size prior the spread is too small here",
        ),
        _row("local IEnKS-N, radius 12, lag 1, rotated", _LOCAL.replace(finite_size=1.0), 10, 0.45, lag=1),
    ),
    *_case(
        _L96_12,
        _row(
            "IEnKS 1.2, lag 1, rotated", _LONG.replace(inflation=1.2), 25, 0.46, 73, 0.4655, 0.0125, lag=1, ours=0.48,
            note="long windows, in which seeds differ: .48 over twelve of them",
        ),
        _row("IEnKS-N, prior 2, lag 1, rotated", _LONG.replace(finite_size=2.0), 25, 0.46, 74, 0.4998, 0.0331, lag=1),
    ),
    *_half_observed(
        _HALF, (0.38, 0.39, 0.39, 0.77, 0.72, 0.45), (23, 24, 25, 28, 29, 30),
        ((0.4716, 0.005), (0.3843, 0.0098), (0.3734, 0.0084)), (0.482,),
    ),
    *_half_observed(
        _NOISY, (0.58, 0.46, 0.45, 1.01, 0.88, 0.57), (24, 26, 27, 29, 30, 31), (), (0.615, 0.514, 0.510)
    ),
    *_case(
        _UV,
        _row("climatology", _CLIMATOLOGY, 1, 0.93, 107, 0.9329, 0.0041),
        _row("3D-Var 2", _three_d_var(2.0), 1, 0.39, 108, 0.3858, 0.0021),
        _row("EnKF-N", EnKFN(), 20, 0.27, 109, 0.2906, 0.0015),
    ),
    *_case(
        _KS,
        _row("climatology", _CLIMATOLOGY, 1, 1.3, 40),
        _row("optimal interpolation", _OPTIMAL, 1, 0.5, 41, 0.4617, 0.0043),
        _row("LETKF 1.11, half-width 15, rotated", LETKF(1.11, True, _taper(15)), 4, 0.18, 35, 0.1824, 0.0126),
        _row(
            "LETKF 1.06, half-width 25, rotated", LETKF(1.06, True, _taper(25)), 6, 0.14, 36, loses=0.2,
            note="4 of 20 runs lose the truth for a while (documented as the mean of ten runs)",
        ),
        _row(
            "LETKF 1.02, half-width 51, rotated", LETKF(1.02, True, _taper(51)), 16, 0.11, 37, 0.1046, 0.0044,
            loses=0.4, note="two of five runs lose the truth for a while (rerun over 300 times only)",
        ),
        _row("ETKF 1.6, rotated", ETKF(1.6, True), 13, 0.5, 42),
        _row("ETKF 1.03, rotated", ETKF(1.03, True), 20, 0.115, 43, 0.1091, 0.0038),
    ),
]  # fmt: skip

# Documented there, and not rerun here.
LEFT_OUT = {
    "QG/sakov2008 (16,641 points)": "run by: python -m benchmarks.published_qg",
    "PFxN, half-observed Lorenz-96": "100,000 draws at every analysis; KernelParticleFilter on Lorenz-63 is rerun",
    "perfect prediction": "its error is zero by definition",
}
