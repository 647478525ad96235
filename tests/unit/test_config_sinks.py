"""The section `sinks`: further places for curves, each a plugin with options of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from metricwatch import catalog
from metricwatch.assembly import further_sink
from metricwatch.config import load_config
from metricwatch.config.plugins import PluginConfig
from metricwatch.errors import ConfigError, PluginError

JsonLinesSink = catalog.load_sink("json_lines")

HEAD = """\
tracking: {uri: sqlite:///mlflow.db}
watch: [{run: {name: night}, samples: samples/*}]
metrics: [fid]
"""


def lines(folder: Path, text: str) -> list[str]:
    file = folder / "metricwatch.yaml"
    file.write_text(HEAD + text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


def test_a_sink_is_a_plugin_with_its_options_and_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metricwatch.yaml"
    file.write_text(HEAD + "sinks: {lines: {use: json_lines, directory: ./curves}}\n")
    (sink,) = load_config(file, environ={}).sinks.values()
    assert (sink.name, sink.use, sink.options.directory) == ("lines", "json_lines", tmp_path / "curves")


def test_without_the_section_there_are_none(tmp_path: Path) -> None:
    file = tmp_path / "metricwatch.yaml"
    file.write_text(HEAD)
    assert load_config(file, environ={}).sinks == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sinks: [json_lines]", "sinks: must be a mapping of names to sinks"),
        ("sinks: {lines: json_lines}", "sinks.lines: must be a mapping with use: and the sink's options"),
        ("sinks: {lines: {use: json_line}}", "sinks.lines.use: unknown sink 'json_line'; did you mean 'json_lines'?"),
        ("sinks: {lines: {use: json_lines}}", "sinks.lines.directory: required, but not given"),
        (
            "sinks: {lines: {use: json_lines, directory: x, folder: y}}",
            "sinks.lines.folder: unknown key; known: directory",
        ),
        (
            "sinks: {mlflow: {use: json_lines, directory: x}}",
            "sinks.mlflow: is the name of the tracking server's own sink; choose another one",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert lines(tmp_path, text) == [expected]


def test_a_sink_without_use_names_the_installed_ones(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, "sinks: {lines: {directory: x}}")
    assert line.startswith("sinks.lines.use: required: the sink to use; known: json_lines, mlflow")


def test_an_address_as_a_name_is_refused_and_not_shown(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, 'sinks: {"https://user:hunter2@example.org/x": {use: json_lines, directory: x}}')
    assert "hunter2" not in line
    assert "a sink's name must not be an address" in line


def test_a_password_in_the_address_of_a_sink_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "metricwatch.yaml"
    file.write_text(HEAD + "sinks: {archive: {use: mlflow, uri: 'http://mw:hidden-word@h:1/x'}}\n")
    config = load_config(file, environ={})
    assert config.sinks["archive"].options.uri.count("hidden-word") == 1
    assert "hidden-word" not in f"{config!r} {config.model_dump()} {config.model_dump_json()}"


def test_a_sink_without_a_name_is_refused(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, "sinks: {'': {use: json_lines, directory: x}}\n")
    assert line.endswith("the name of a sink must not be empty")


def test_a_sink_that_cannot_be_made_is_named_without_its_own_words(tmp_path: Path) -> None:
    class Broken(JsonLinesSink):
        def __init__(self, options: object) -> None:
            raise ValueError("hunter2")

    item = PluginConfig(name="lines", use="json_lines", options=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metricwatch.catalog.load_sink", lambda name: Broken)
        with pytest.raises(
            PluginError, match=r"sinks\.lines: sink 'json_lines' cannot be made: it raises ValueError"
        ) as told:
            further_sink(item)
    assert "hunter2" not in str(told.value)
