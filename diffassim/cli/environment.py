"""What every command needs: the extra packages, the precision, the exit codes."""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "TERMINATED",
    "USER_ERROR",
    "check_numbers_file",
    "checked_stop_code",
    "configure_jax",
    "leave",
    "need_data_extra",
    "require_something",
    "version_text",
]

FAILED = 1  # exit code where nothing was reached, or of an error that nobody foresaw
USER_ERROR = 2  # exit code where the user can help it
LINGER = 3.0  # seconds in which the first process, through which all others talk, lets them read why it ends
INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C, and after SIGTERM where nothing can go on
LARGEST_CODE = 255


def checked_stop_code(code: int) -> int:
    """Return the exit code after SIGTERM; raise `ConfigurationError` if it is none, or says something else."""
    taken = {FAILED: "a failure", USER_ERROR: "wrong settings", INTERRUPTED: "Ctrl-C"}
    if not 0 <= code <= LARGEST_CODE or code in taken:
        why = f" ({code} says that it was {taken[code]})" if code in taken else ""
        raise ConfigurationError(
            f"--stop-code {code}: must be an exit code, 0 to {LARGEST_CODE}, and none that says something else{why}; "
            f"for a scheduler that takes 0 for finished: {TERMINATED}"
        )
    return code


def version_text() -> str:
    """Return the version of the package."""
    try:
        return version("diffassim")
    except PackageNotFoundError:
        return "not installed"


def leave(code: Any) -> None:
    """End this process; as one of several it does not wait for the others, which may wait for it.

    Args:
        code: exit code, as `sys.exit` takes it.
    """
    if not code or processes.count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if processes.rank() == 0:
        time.sleep(LINGER)
    os._exit(code if isinstance(code, int) else FAILED)


def need_data_extra() -> None:
    """Raise `ConfigurationError` if a package that runs need is not installed."""
    try:
        import matplotlib  # noqa: F401
        import netCDF4  # noqa: F401
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
        import tomlkit  # noqa: F401
        import xarray  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'diffassim[data]'") from None


def configure_jax(dtype: Any) -> None:
    """Set the precision, and keep compiled programs between runs (compilation dominates short runs)."""
    import jax
    from platformdirs import user_cache_path

    jax.config.update("jax_enable_x64", dtype != "float32")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("diffassim") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def require_something(results: Any) -> None:
    """End with an error where the scores rest on nothing, or are no numbers."""
    if results.counted < 1:
        print("diffassim: nothing that counts has finished; the table says what failed", file=sys.stderr)
        sys.exit(FAILED)
    value = results.scores["value"].to_numpy(dtype=float)
    bad = results.scores[~(abs(value) < float("inf"))]
    if len(bad):
        first = bad.iloc[0]
        print(
            f"diffassim: {len(bad)} of {len(value)} scores are not finite, the first of them {first['metric']} of "
            f"{first['method']}: these forecasts or analyses count as failed",
            file=sys.stderr,
        )
        sys.exit(FAILED)


def check_numbers_file(out: Path | None) -> None:
    """Raise `ConfigurationError` unless numbers can be written to a file of that name."""
    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigurationError(f"--out {out}: the name must end in .json or .csv")
