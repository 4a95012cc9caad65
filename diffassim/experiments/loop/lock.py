"""One loop at a time in a directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened, single_line

__all__ = ["locked"]


@contextmanager
def locked(path: Path) -> Iterator[str]:
    """Hold a lock while the block runs; the system releases it when the process ends, however it ends.

    Args:
        path: the file that is locked; it says who holds it.

    Yields:
        Who left the lock behind without releasing it, or nothing.

    Raises:
        ConfigurationError: if another process holds it.

    Example:
        >>> from pathlib import Path
        >>> with locked(Path("lock")) as left:
        ...     left
        ''
    """
    import fcntl  # of POSIX systems

    with path.open("a+") as file:
        file.seek(0)
        holder = single_line(shortened(file.read(200), 100))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"{path.parent}: another loop works here ({holder or 'unknown'}); wait for it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield holder
        finally:
            file.truncate(0)
