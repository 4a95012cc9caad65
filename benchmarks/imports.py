"""What the import costs: `import diffassim` beside `import jax`, in fresh processes."""

from __future__ import annotations

from pathlib import Path

import cyclopts

from benchmarks.harness import Record, fresh_process, report

_CODE = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import jax
between = time.perf_counter(), time.process_time()
import diffassim
print([between[0] - wall, between[1] - cpu, time.perf_counter() - between[0], time.process_time() - between[1]])
"""


def measure(processes: int) -> list[Record]:
    fresh_process(_CODE)  # writes the byte code
    runs = [fresh_process(_CODE) for _ in range(processes)]
    jax_wall, jax_cpu, own_wall, own_cpu = (min(run[i] for run in runs) for i in range(4))
    more = {"processes": processes}
    return [
        Record("import jax", "", seconds=jax_wall, cpu_seconds=jax_cpu, more=more),
        Record(
            "import diffassim after jax", "", seconds=own_wall, cpu_seconds=own_cpu, reference="import jax",
            ratio=own_wall / jax_wall, target=0.3, more=more | {"target": "in seconds"},
        ),
    ]  # fmt: skip


def main(*, processes: int = 10, json: Path | None = None) -> None:
    """Time the import.

    Args:
        processes: fresh processes.
        json: file for the records.
    """
    report("imports", measure(processes), json)


if __name__ == "__main__":
    cyclopts.run(main)
