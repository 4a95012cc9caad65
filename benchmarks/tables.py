"""Observation tables: rows a second and memory of `read_table` beside a bare `pandas.read_csv` of the same file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cyclopts
import numpy as np
import pandas as pd

from benchmarks.harness import Record, fresh_process, report

CHUNK = 500_000

_READ = """
import json, time
import numpy, pandas, jax
{imports}
def peak():  # not getrusage, which counts what the process was before it became this program
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
idle = peak()
wall, cpu = time.perf_counter(), time.process_time()
{read}
seconds = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([*seconds, count, idle, peak()]))
"""

_OWN = """
from diffassim.io.columns import TableVariable
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table
import diffassim.io.units as units; units.converted("", 1.0, "knot", "m s-1")
wind = TableVariable("wind", "ff", "knot", "m s-1", bounds="wind_speed", spike=20.0, stuck=6, missing=(-999,))
layout = LongLayout(variables=(wind,), station="id", longitude="lon", latitude="lat")
"""


def write_table(path: Path, rows: int, stations: int, by_station: bool, seed: int = 0) -> None:
    """Write a long table: every station once an hour, one value in a hundred missing."""
    hours = -(-rows // stations)
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(-10, 30, stations).round(3), rng.uniform(40, 60, stations).round(3)
    names = np.array([f"S{k:05d}" for k in range(stations)])
    with path.open("w") as file:
        file.write("time,id,lon,lat,ff\n")
        for start in range(0, rows, CHUNK):
            report_number = np.arange(start, min(start + CHUNK, rows))
            station = report_number // hours if by_station else report_number % stations
            hour = report_number % hours if by_station else report_number // stations
            time = np.datetime64("2000-01-01", "s") + hour * np.timedelta64(3600, "s")
            wind = np.where(rng.random(len(station)) < 0.01, -999.0, rng.gamma(2.0, 5.0, len(station)).round(1))
            chunk = {"time": time, "id": names[station], "lon": lon[station], "lat": lat[station], "ff": wind}
            pd.DataFrame(chunk).to_csv(file, header=False, index=False)


def measure(rows: int, stations: int, directory: Path, timeout: float, by_station: bool = False) -> list[Record]:
    """Read one generated file both ways, each in a process of its own."""
    path = directory / "reports.csv"
    try:
        write_table(path, rows, stations, by_station)
        order = "one station after the other" if by_station else "in the order of time"
        size = f"{rows} rows {order}, {stations} stations, {path.stat().st_size / 1e6:.0f} MB"
        cases = {
            "pandas.read_csv, bare": ("", f"count = len(pandas.read_csv({str(path)!r}, parse_dates=['time']))"),
            "read_table": (_OWN, f"count = len(read_table({str(path)!r}, layout))"),
        }
        found = {
            what: fresh_process(_READ.format(imports=imports, read=read), timeout=timeout)
            for what, (imports, read) in cases.items()
        }
    finally:
        path.unlink(missing_ok=True)
    bare = found["pandas.read_csv, bare"][0]
    return [
        Record(
            what, size, seconds=wall, cpu_seconds=cpu, reference="pandas.read_csv, bare", ratio=wall / bare,
            peak_bytes=peak, more={"rows/s": float(count / wall), "MB before reading": idle / 1e6},
        )
        for what, (wall, cpu, count, idle, peak) in found.items()
    ]  # fmt: skip


def main(
    *, rows: int = 200_000, stations: int = 200, directory: Path | None = None, timeout: float = 600,
    by_station: bool = False, json: Path | None = None,
) -> None:  # fmt: skip
    """Time the reader and measure its memory.

    Args:
        rows: of the generated table; 10,000,000 need 430 MB of disk.
        stations: that report in turn.
        directory: where the table is written and deleted again; default: a temporary one.
        timeout: seconds for each process.
        by_station: whether the file has one station after the other, so that the reports have to be sorted.
        json: file for the records.
    """
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary) if directory is None else directory
        report("tables", measure(rows, stations, where, timeout, by_station), json)


if __name__ == "__main__":
    cyclopts.run(main)
