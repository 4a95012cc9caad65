"""Published protocols of learned assimilation, one module for each row of the benchmark."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffassim.core.errors import ConfigurationError

__all__ = ["LEFT_OUT", "ROWS", "find_row"]

# Modules by row; imported when they are asked for.
ROWS = {
    "L1": "inverse_operator",
    "L2": "kolmogorov_flow",
    "L4": "ensemble_update",
    "L5": "single_state_analysis",
    "L6": "windows_without_truth",
    "L7": "learned_solver",
    "L10": "online_correction",
    "L11": "stochastic_lorenz63",
    "L12": "data_scarcity",
    "adversarial": "adversarial",
    "distillation": "distillation",
    "fusion": "fusion",
    "transfer": "transfer",
    "transfer-tenth": "transfer_tenth",
}

# Rows whose numbers come from elsewhere.
LEFT_OUT = {
    "L3": "cycled 4D-Var without learning: python -m benchmarks.published_cycles",
    "L8": "the law of Lorenz-96 learned through a filter: python -m benchmarks.published_dynamics",
    "L9": "filters with arctangents: python -m benchmarks.published_arctangents",
}


def find_row(name: str) -> Any:
    """Return the row of that name.

    Raises:
        ConfigurationError: if there is none.

    Example:
        >>> find_row("L12").metric
        'log likelihood of a step'
    """
    if name not in ROWS:
        raise ConfigurationError(f"there is no row {name!r}; there are {', '.join(ROWS)}")
    return import_module(f"{__name__}.{ROWS[name]}").ROW
