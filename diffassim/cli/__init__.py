"""The command line: nothing here that a notebook cannot call."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import cyclopts

from diffassim.cli.benches import bench
from diffassim.cli.environment import FAILED, USER_ERROR, leave, version_text
from diffassim.cli.experiments import add_commands
from diffassim.cli.loops import add_loop
from diffassim.core.errors import AssimilationError
from diffassim.core.processes import ProcessError
from diffassim.io.messages import single_line

__all__ = ["app", "main"]

app = cyclopts.App(
    name="diffassim",
    help="Differentiable data assimilation. With --debug, an error is shown with its traceback.",
    version=version_text,
    result_action="return_value",
)
add_commands(app)
add_loop(app)
app.command(bench)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `diffassim`: every error is one line.

    The exit code is 2 for what the user can help (words, settings, files), 1 for everything else.

    Args:
        arguments: words of the command line; default: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    warnings.showwarning = _show_warning
    try:
        app([word for word in words if word != "--debug"], exit_on_error=False, print_error=False)
    except (AssimilationError, cyclopts.CycloptsError, OSError) as error:
        if debug:
            raise
        print(f"diffassim: {single_line(error)}", file=sys.stderr)
        leave(FAILED if isinstance(error, ProcessError) else USER_ERROR)
    except Exception as error:
        if debug:
            raise
        print(f"diffassim: {_unforeseen(error)}", file=sys.stderr)
        leave(FAILED)
    except SystemExit as end:
        leave(end.code)


def _unforeseen(error: Exception) -> str:
    """Return a line about an error that no check foresaw, with advice."""
    text = single_line(f"{type(error).__name__}: {error}", 300)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"the memory does not suffice; choose fewer members, points, steps or cycles ({text})"
    return f"{text}. No check foresaw this: --debug shows where it arose, for a report"


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"diffassim: {category.__name__}: {single_line(message)}", file=sys.stderr)
