"""How far a training is, and how long it still takes."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from diffassim.core.checks import count_of

__all__ = ["ProgressLine"]


class ProgressLine:
    """A line of text after every chunk, for `fit(..., progress=...)`: step, loss, updates a second, time left.

    Time counts from the first chunk's end, so that neither compilation nor the updates of an earlier training make the
    rest look longer or shorter than it is. At a terminal, each line takes the place of the one before.

    Args:
        steps: updates of the whole training, as given to `fit`.
        file: where to write; standard error if None.

    Example:
        >>> tell = ProgressLine(1000, file=sys.stdout)
        >>> tell(99, 0.25)
        step 100 of 1000, loss 0.25
    """

    def __init__(self, steps: int, file: TextIO | None = None) -> None:
        self._steps, self._file = count_of("ProgressLine: steps", steps, least=1), file
        self._begin: tuple[int, float] | None = None

    def __call__(self, step: int, loss: float) -> None:
        """Write the line of a chunk that ended with a step."""
        now, done = time.monotonic(), step + 1
        text = f"step {done} of {self._steps}, loss {loss:.4g}"
        if self._begin is None or done <= self._begin[0]:  # a new training begins anew
            self._begin = done, now
        else:
            rate = (done - self._begin[0]) / max(now - self._begin[1], 1e-9)
            text += f", {rate:.3g} updates/s, {_duration((self._steps - done) / rate)} left"
        file = sys.stderr if self._file is None else self._file
        ends = "\r" if file.isatty() and done < self._steps else "\n"
        file.write(f"{text:<79}{ends}" if file.isatty() else text + ends)
        file.flush()


def _duration(seconds: float) -> str:
    """Return a time in two units at most.

    Example:
        >>> _duration(4.2), _duration(75), _duration(3 * 3600 + 62)
        ('4 s', '1 min 15 s', '3 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
