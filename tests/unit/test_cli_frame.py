"""The frame around every command: exit codes, messages, start-up."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import metricwatch
from metricwatch import cli
from metricwatch.cli import console
from metricwatch.errors import ConfigError, MetricwatchError, TemporaryError

RAISED: dict[str, BaseException] = {
    "failed": TemporaryError("mlflow: HTTP 503"),
    "misconfigured": ConfigError("one.yaml: a: bad\none.yaml: b: bad"),
    "broken": KeyError("some\nthing"),
    "full": OSError(28, "No space left on device", "/data/x"),
    "interrupted": KeyboardInterrupt(),
}


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.delenv("METRICWATCH_DEBUG", raising=False)
    frame = cli._group("", cls=cli._Frame)
    frame.callback()(cli._options)

    @frame.command("raise")
    def raise_it(name: str) -> None:
        raise RAISED[name]

    @frame.command("fine")
    def fine() -> None:
        print("fine")

    def invoke(*arguments: str):
        return CliRunner().invoke(frame, list(arguments))

    return invoke


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metricwatch", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize(
    ("name", "code", "lines"),
    [
        ("failed", 1, ["metricwatch: mlflow: HTTP 503"]),
        ("misconfigured", 78, ["metricwatch: one.yaml: a: bad", "metricwatch: one.yaml: b: bad"]),
        ("full", 1, ["metricwatch: /data/x: No space left on device"]),
        (
            "broken",
            1,
            ["metricwatch: internal error: KeyError: 'some\\nthing'; run again with --debug for the details"],
        ),
        ("interrupted", 130, []),
    ],
)
def test_what_a_command_raises_becomes_a_message_and_an_exit_code(invoke, name, code, lines):
    result = invoke("raise", name)
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("--debug", "raise", "broken"), ("raise", "broken", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "metricwatch: internal error: KeyError" in result.stderr


def test_the_environment_can_ask_for_the_traceback_too(invoke, monkeypatch):
    monkeypatch.setenv("METRICWATCH_DEBUG", "1")
    assert "Traceback" in invoke("raise", "failed").stderr
    monkeypatch.setenv("METRICWATCH_DEBUG", "0")
    assert "Traceback" not in invoke("raise", "failed").stderr


def test_a_command_that_returns_leaves_with_zero(invoke):
    result = invoke("fine")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize(
    "arguments", [["chek"], ["check", "--ofline"], ["init", "a", "b"], ["--log-format", "xml", "check"]]
)
def test_a_usage_error_leaves_with_two_and_says_what_is_wrong(arguments):
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output


def test_every_error_type_has_a_documented_exit_code():
    kinds = [MetricwatchError, *MetricwatchError.__subclasses__()]
    assert {kind.exit_code for kind in kinds} <= {1, 78}


def processor_seconds(*arguments: str) -> float:
    """What one start costs; the clock on the wall would also count the other tests of a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_version_is_printed_quickly():
    assert run("--version").stdout == f"metricwatch {metricwatch.__version__}\n"
    assert min(processor_seconds("--version") for _ in range(5)) < 0.3


def test_the_command_line_starts_without_the_heavy_libraries():
    code = (
        "import sys, metricwatch.cli; "
        "print([name for name in ('torch', 'mlflow', 'numpy', 'pydantic', 'yaml', 'structlog', 'rich', 'PIL') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_plugins_list_names_all_without_importing_any():
    code = (
        "import sys, json; from metricwatch.cli import plugins; plugins.command(as_json=True); "
        "print([name for name in sys.modules if name.startswith(('metricwatch.metrics', 'metricwatch.sinks'))], "
        "file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stderr.strip() == "[]"
    found = {(plugin["kind"], plugin["name"]): plugin for plugin in json.loads(result.stdout)["plugins"]}
    assert found["metrics", "fid"]["package"] == "metricwatch"
    assert found["sinks", "mlflow"]["target"] == "metricwatch.sinks.mlflow:MlflowSink"


def test_a_piped_table_is_plain_lines_that_nothing_cuts():
    result = run("plugins", "list", COLUMNS="20", FORCE_COLOR="1")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["KIND", "NAME", "PACKAGE", "VERSION", "TARGET"]
    assert "\x1b" not in result.stdout
    assert any(re.search(r"^metric +fid +metricwatch +\S+ +metricwatch\.metrics\.\w+:Fid$", row) for row in rows)


def test_a_reader_that_goes_away_gets_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "metricwatch", "plugins", "list"]
    result = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize("closing", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["plugins list", "check -c nowhere.yaml", "init --no-such-option"])
def test_closed_streams_cost_nothing_but_the_text(closing, arguments):
    expected = run(*arguments.split())
    command = f"{sys.executable} -m metricwatch {arguments} {closing}"
    result = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert result.returncode == expected.returncode
    assert "Traceback" not in result.stderr
    if closing == ">&-":
        assert result.stderr == expected.stderr


def test_no_descriptor_of_a_stream_is_left_for_a_file():
    code = (
        "import os; from metricwatch import cli; cli._ready_streams(); os._exit(40 + (os.open('/', os.O_RDONLY) > 2))"
    )
    result = subprocess.run(["/bin/sh", "-c", f'{sys.executable} -c "{code}" <&- >&- 2>&-'], check=False)
    assert result.returncode == 41


ODD = "\udcff\x1b[31m\n± \N{GRINNING FACE}"
PRINTING = f"""
import sys
from metricwatch.cli import _ready_streams, console
_ready_streams()
odd = {ODD!a}
if sys.argv[1] == "json":
    console.print_json({{"name": odd}})
else:
    console.results().print(odd)
    console.print_table(["a", "± b"], [[odd, "c"]])
"""


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "latin-1"])
def test_every_encoding_of_stdout_can_take_every_name(encoding):
    def out(kind: str) -> str:
        command = [sys.executable, "-c", PRINTING, kind]
        environ = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run(command, check=True, capture_output=True, env=environ)
        return result.stdout.decode(encoding.partition(":")[0])

    assert json.loads(out("json")) == {"name": ODD}
    plain, _, row = out("plain").splitlines()
    assert plain.startswith(r"\udcff\x1b[31m\n")
    assert row.endswith("  c")
    assert "\x1b" not in plain + row


def test_printed_text_keeps_its_own_line_breaks_only(capsys):
    screen = console.results()
    screen.print("\nrun x\ny:\n")
    screen.print("    one\n    two\nthree")
    assert capsys.readouterr().out == "\nrun x\\ny:\n\n    one\n    two\\nthree\n"


def test_json_holds_no_character_that_a_terminal_obeys(capsys):
    text = "\x7f\x9b\u2028\u202e"
    console.print_json([text])
    shown = capsys.readouterr().out
    assert not set(text) & set(shown)
    assert json.loads(shown) == [text]


def test_a_message_cannot_command_the_terminal(invoke, monkeypatch):
    monkeypatch.setitem(RAISED, "failed", TemporaryError("one\x1b[2J\ntwo\r"))
    assert invoke("raise", "failed").stderr == "metricwatch: one\\x1b[2J\nmetricwatch: two\\r\n"
