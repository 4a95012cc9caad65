"""The page about a finished run."""

from __future__ import annotations

import html.parser
import shutil
import subprocess

import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

from diffassim.experiments.framework import run as runs
from tests.experiments.countdown import Countdown

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path):
    experiment = Countdown()
    runs.run(experiment, experiment.configuration(chunks=2), tmp_path / "out")
    return tmp_path / "out" / "index.html"


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert not reader.open
    assert reader.sources and all(source.startswith("data:image/png;base64,") for source in reader.sources)
    text = "".join(reader.text)
    for heading in ("What was done", "Scores", "Figures", "Settings", "Made with"):
        assert heading in text
    assert (page.parent / "table.txt").read_text().strip() in text
    assert (page.parent / "config.toml").read_text().strip() in text
    assert '"seconds"' in text and '"jax"' in text


def test_a_second_scoring_gives_the_same_page(page):
    before = page.read_bytes()
    runs.score(page.parent)
    assert page.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt install chromium")
@pytest.mark.parametrize("width", [1300, 420])
def test_a_browser_shows_it_without_a_word_of_complaint(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1600", "--enable-logging=stderr"]
    found = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert shot.stat().st_size > 5000
    assert ":CONSOLE" not in found.stderr
