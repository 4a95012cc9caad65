"""The page on many devices: its code runs as it stands, on as many devices as its first command says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "many_devices.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.ci
def test_the_page_runs_on_four_devices(tmp_path):
    commands = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    command = commands[0].strip().replace("XLA_FLAGS=", f'XLA_FLAGS="{os.environ.get("XLA_FLAGS", "")} ') + '"'
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}  # as a reader has it
    done = subprocess.run(
        ["bash", "-c", f"{command} && {sys.executable} {script}"], capture_output=True, text=True, check=False,
        env=environment | {"PYTHONPATH": str(ROOT)}, timeout=1200, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    said = done.stdout
    assert "True P('device',)" in said
    assert "(8, 4) True" in said
    assert "True P('device',)" in said.split("(8, 4) True")[1] and "10  all-to-all" in said
    assert "x['u'] has 6 entries along axis 0, which the 4 devices" in said
    assert "sent by each of 4" in said and "observations looked up" in said
