"""What tests take, as measured: marks those that take long, and measures anew with `--renew-durations`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("durations.tsv")
SLOW, LONG = 2.0, 6.0  # seconds of processor time
NAME = "processor time"
START = pytest.StashKey[float]()


def further_by_hand(entries, first):
    """Return a parametrization by `entry` in which all but the named ones are marked `long`."""
    named = [entry if entry.name in first else pytest.param(entry, marks=pytest.mark.long) for entry in entries]
    return pytest.mark.parametrize("entry", named, ids=lambda entry: entry.name)


def known() -> dict[str, float]:
    """Return seconds by the name of a test."""
    if not FILE.exists():
        return {}
    rows = (line.split("\t") for line in FILE.read_text().splitlines())
    return {name: float(seconds) for seconds, name in rows}


def pytest_addoption(parser):
    parser.addoption("--renew-durations", action="store_true", help=f"write {FILE.name} anew for the tests that run")


def pytest_configure(config):
    if config.getoption("--renew-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests before they are chosen by marks."""
    seconds = known()
    for item in items:
        taken = seconds.get(item.nodeid, 0.0)
        if taken > LONG and not item.get_closest_marker("ci"):
            item.add_marker("long")
        if taken > SLOW or item.get_closest_marker("long"):
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[START] = time.process_time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "teardown" and START in item.stash:
        report.user_properties.append((NAME, time.process_time() - item.stash[START]))
    return report


class Durations:
    """Collects what all processes measure, and writes it at the end; registered where the option is given."""

    def __init__(self) -> None:
        self.measured: dict[str, float] = {}

    def pytest_runtest_logreport(self, report):
        taken = dict(report.user_properties).get(NAME)
        if taken is not None:
            self.measured[report.nodeid] = taken

    def pytest_sessionfinish(self):
        found = {name: seconds for name, seconds in (known() | self.measured).items() if seconds > SLOW}
        FILE.write_text("".join(f"{found[name]:.2f}\t{name}\n" for name in sorted(found)))
