"""What tests of the command line share."""

from __future__ import annotations

import pytest

from diffassim.cli import main


def refused(capsys, *words: str) -> str:
    """Return the one line with which the command line refuses these words."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("diffassim: ")
    assert errors.count("\n") == 1
    return errors
