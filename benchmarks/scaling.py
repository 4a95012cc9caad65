"""How assimilations grow with devices: processor time on forced devices, and messages counted from the programs.

A laptop has no cluster. What can be measured here is how much processor time all forced devices need together, which
stays that of one device where nothing is done twice; what they would send each other is counted from the program that
the compiler makes for 8, 64 or 512 devices. A stated machine turns both into a prediction. What processes of this
machine really send each other is read from its loopback interface, and stands beside what was counted.
"""

from __future__ import annotations

import json as json_module
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cyclopts
from rich.console import Console
from rich.table import Table

from benchmarks.harness import ROOT, Record, conditions, fresh_process, report
from benchmarks.scaling_cases import CASES

BANDWIDTH, LATENCY = 25e9, 5e-6  # of the machine of the prediction: bytes a second and seconds a message
THREADS = 128  # at most, for devices on which nothing runs
WINDOWS = ((64, 8), (64, 4), (256, 4))  # steps of a window, and of a sub-window
SHARE = 64  # parts of the problem of strong scaling that a device has in weak scaling is one


def on_forced_devices(names: list[str], size: int, devices: int, run: bool, timeout: float = 3600) -> dict[str, Any]:
    """Return `measure` in a process of its own with so many devices."""
    code = (
        "import json\nfrom benchmarks.scaling_cases import measure\n"
        f"print(json.dumps(measure({names!r}, {size}, {run})))"
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {"XLA_FLAGS": flags, "NPROC": str(max(4, 4 * devices if run else min(2 * devices, THREADS)))}
    return fresh_process(code, environment, timeout=timeout)  # type: ignore[no-any-return]


def on_processes(names: list[str], size: int, count: int, timeout: float = 3600) -> tuple[list[Any], dict[str, float]]:
    """Return `measure` of each of several processes with a device each, and what their link can do."""
    code = (
        "from diffassim.core.processes import initialize\ninitialize()\nimport json\n"
        "from benchmarks.scaling_cases import measure, measure_link\n"
        f"print(json.dumps([measure({names!r}, {size}, True), measure_link()]))"
    )
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                              "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    texts = [process.communicate(timeout=timeout)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"processes of a benchmark ended with {[process.returncode for process in processes]}")
    told = [json_module.loads(text.strip().splitlines()[-1]) for text in texts]
    return [each[0] for each in told], told[0][1]


def predicted(
    cpu: float, devices: int, sent: float, messages: float, bandwidth: float = BANDWIDTH, latency: float = LATENCY
) -> float:
    """Return the seconds of a step on the stated machine: a device's share of the work, then its messages."""
    return cpu / devices + sent / bandwidth + messages * latency * (devices > 1)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    return table


def print_predictions(names: list[str], strong: dict[int, Any], weak: dict[int, Any]) -> None:
    """Print what a step would take on the stated machine, for a fixed problem and for one that grows."""
    table = _table(
        f"predicted, {BANDWIDTH / 1e9:.0f} GB/s and {LATENCY * 1e6:.0f} us a message",
        ("what", "devices", "fixed: sent KB", "messages", "ms", "of ideal", "cpu here", "growing: sent KB", "messages",
         "ms", "of ideal", "cpu here"),
    )  # fmt: skip
    for name in names:
        for d in strong:
            cells = []
            for kind, times in ((strong, 1), (weak, d)):
                if d not in kind:
                    cells += [""] * 5
                    continue
                row, work = kind[d][name], times * kind[1][name]["cpu"]
                seconds = predicted(work, d, row["bytes"], row["messages"])
                # What all devices do together costs here what it costs alone, if nothing is done twice.
                here = f"{row['cpu'] / work:.2f}" if "cpu" in row else ""
                cells += [
                    f"{row['bytes'] / 1e3:.3g}", str(row["messages"]), f"{1e3 * seconds:.3g}",
                    f"{work / d / seconds:.0%}", here,
                ]  # fmt: skip
            table.add_row(name, str(d), *cells)
    Console(width=150).print(table)


def print_processes(
    names: list[str], alone: dict[str, Any], count: int, told: list[Any], link: dict[str, float]
) -> None:
    """Print what processes of this machine sent and took, beside what was counted and predicted."""
    table = _table(
        f"{count} processes of this machine, {link['bandwidth'] / 1e9:.2g} GB/s and {link['latency'] * 1e6:.0f} us a "
        "message as measured between them",
        ("what", "counted KB", "over loopback KB", "predicted ms", "wall ms", "cpu of all / of one"),
    )
    for name in names:
        row = told[0][name]
        seconds = predicted(alone[name]["cpu"], count, row["bytes"], row["messages"], **link)
        cpu = sum(each[name]["cpu"] for each in told)
        table.add_row(
            name, f"{count * row['bytes'] / 1e3:.4g}", f"{row['loopback'] / 1e3:.4g}", f"{1e3 * seconds:.3g}",
            f"{1e3 * row['seconds']:.3g}", f"{cpu / alone[name]['cpu']:.2f}",
        )  # fmt: skip
    Console(width=150).print(table)


def print_critical_paths() -> dict[str, Any]:
    """Print, and return, model steps that have to follow each other in strong- and weak-constraint windows."""
    code = (
        "import json\nfrom benchmarks.scaling_cases import measure_critical_path\n"
        f"print(json.dumps([measure_critical_path(*window) for window in {WINDOWS}]))"
    )
    counted = fresh_process(code)
    table = _table(
        "model steps one after the other in a value of the cost, counted in its program",
        ("what", "steps", "of a sub-window", "strong", "time-parallel", "gain", "theory"),
    )
    for (steps, every), found in zip(WINDOWS, counted, strict=True):
        gain = found["strong"] / found["weak"]
        table.add_row(
            "window",
            str(steps),
            str(every),
            str(found["strong"]),
            str(found["weak"]),
            f"{gain:.3g}",
            str(steps // every),
        )
    Console(width=150).print(table)
    return {f"{steps}/{every}": found for (steps, every), found in zip(WINDOWS, counted, strict=True)}


def main(
    *, case: list[str] | None = None, size: int = 131_072, measured: tuple[int, ...] = (1, 2, 4),
    counted: tuple[int, ...] = (8, 64, 512), processes: int = 2, json: Path | None = None,
) -> None:  # fmt: skip
    """Measure on forced devices and processes, count for many devices, and predict.

    Args:
        case: names of cases; default: all.
        size: of the fixed problem; of the growing one each device has a 64th.
        measured: numbers of devices that are run, the first of which is 1.
        counted: numbers of devices for which the program is only compiled.
        processes: number of processes of this machine; 1: none.
        json: file for the records.
    """
    names = list(CASES) if case is None else case
    share = max(size // SHARE, 1)
    strong = {d: on_forced_devices(names, size, d, d in measured) for d in (*measured, *counted)}
    weak = {d: on_forced_devices(names, share * d, d, d in measured) for d in (*measured, *counted)}
    records = []
    for name in names:
        for kind, found, own in (("strong", strong, lambda d: size), ("weak", weak, lambda d: share * d)):
            for d, rows in found.items():
                row, alone = rows[name], found[1][name]["cpu"]
                ideal = alone if kind == "strong" else alone * d
                run = "cpu" in row
                records.append(
                    Record(
                        what=f"{name}, {kind}{'' if run else ', counted'}", size=f"{own(d)} on {d} devices",
                        dtype="float32", compile_seconds=row["compile"], seconds=row.get("seconds"),
                        cpu_seconds=row.get("cpu"), reference="processor time of one device" if run else None,
                        ratio=row["cpu"] / ideal if run else None, peak_bytes=row["memory"],
                        more={"sent": row["bytes"], "messages": row["messages"]} | (row["kinds"] if run else {}),
                    )
                )  # fmt: skip
    report("scaling over devices", records, json)
    print_predictions(names, strong, weak)
    kept: dict[str, Any] = {"strong": strong, "weak": weak, "conditions": conditions()}
    if processes > 1:
        told, link = on_processes(names, size, processes)
        print_processes(names, strong[1], processes, told, link)
        kept |= {"processes": told, "link": link}
    kept["critical path"] = print_critical_paths()
    if json is not None:
        json.with_suffix(".counts.json").write_text(json_module.dumps(kept, indent=1))


if __name__ == "__main__":
    cyclopts.run(main)
