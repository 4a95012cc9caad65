"""Configurations: every problem is one line that names the field."""

from __future__ import annotations

import pytest

from diffassim.core.errors import ConfigurationError
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.configuration import build_configuration, parse_setting, read_toml, to_toml
from tests.experiments.countdown import CountdownConfiguration


def build(**settings):
    return build_configuration(CountdownConfiguration, settings, "countdown")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 3}, "countdown: unknown key 'chunk'; did you mean 'chunks'?"),
        ({"zebra": 3}, "countdown: unknown key 'zebra'; known keys: seed, dtype, chunks, chains, file, length, limit"),
        ({"length": "3 hours"}, "countdown: length: found the unit 'hours', expected 'days' (found '3 hours')"),
        ({"length": -1}, "countdown: length: Input should be greater than 0 (found -1)"),
        ({"chunks": "many"}, "countdown: chunks: Input should be a valid integer"),
        ({"length": 11}, "countdown: length: the window of 11.0 days is longer than limit = 10.0 days"),
        ({"length": float("nan")}, "countdown: length: Input should be a finite number (found nan)"),
        ({"seed": True}, "countdown: seed: a truth value"),
        ({"seed": 2**63}, "countdown: seed: an integer of 64 bits"),
        ({"seed": 2**63 - 1}, "countdown: seed: Input should be less than"),
        ({"chunks": 10**400}, "countdown: chunks: an integer of 1329 bits"),
        ({"chunks": "9" * 10**6}, "countdown: chunks: "),
        ({"x" * 10**6: 1}, "countdown: unknown key 'xxx"),
        ({"dtype": "float16"}, "countdown: dtype: Input should be 'float32' or 'float64' (found 'float16')"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(settings, message):
    with pytest.raises(ConfigurationError) as caught:
        build(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_quantity_may_carry_its_unit():
    assert build(length="2.5 days").length == build(length="2.5").length == build(length=2.5).length == 2.5


def test_toml_repeats_the_configuration_exactly(tmp_path):
    config = build(length=0.1 + 0.2, seed=7, dtype="float32")
    (tmp_path / "config.toml").write_text(to_toml("countdown", config))
    name, settings = read_toml(tmp_path / "config.toml")
    assert name == "countdown"
    assert build(**settings) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", 1),
        ("a = 0.5", 0.5),
        ("a=true", True),
        ("a=[1, 2]", [1, 2]),
        ("a=b c", "b c"),
        ('a="1"', "1"),
        ("a=x=y", "x=y"),
    ],
)
def test_settings_are_read_as_toml_or_text(text, expected):
    assert parse_setting(text) == ("a", expected)


@pytest.mark.parametrize("text", ["a=" + "9" * 5000, "a=" + "[" * 3000 + "]" * 3000], ids=["digits", "nesting"])
def test_a_setting_beyond_all_measure_is_one_line(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)
    for read in (lambda: parse_setting(text), lambda: read_toml(tmp_path / "mine.toml")):
        with pytest.raises(ConfigurationError) as caught:
            read()
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_a_setting_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigurationError, match="write it as key=value"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [("experiment = ", "not valid TOML"), ("seed = 1", "key `experiment` is missing"), (None, "No such file")],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"mine\.toml: .*{message}"):
        read_toml(path)


def test_an_unknown_experiment_gets_a_suggestion():
    with pytest.raises(ConfigurationError, match="did you mean 'lorenz96'"):
        find_experiment("lorentz96")
