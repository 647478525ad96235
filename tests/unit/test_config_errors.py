"""What a bad file is answered: where, what, and what would be right, all at once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metricwatch.config import Config, Tracking, load_config
from metricwatch.errors import ConfigError
from tests.support import plugin

GOOD = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - run: {name: a}
    samples: a/*
metrics: [fid]
"""


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """The lines that a text is answered, as of a file named metricwatch.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)

    def problems(text: str, **environ: str) -> list[str]:
        (tmp_path / "metricwatch.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(environ=environ)
        return str(caught.value).splitlines()

    return problems


@pytest.fixture
def install_metric(tmp_path, monkeypatch):
    """Install a metric with options, by name, until the test is over."""
    yield lambda name: plugin.install_metric(tmp_path / "site", monkeypatch, name)
    monkeypatch.undo()
    plugin.forget_plugins()


def entry(more: str) -> str:
    return GOOD.replace("    samples: a/*\n", f"    samples: a/*\n{more}")


def test_a_missing_file_says_how_to_write_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^metricwatch.yaml: no such file; write one with: metricwatch init metr"):
        load_config(environ={})


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("watch: [\n", "metricwatch.yaml:2:1: "),
        ("metrics: [fid]\nmetrics: [ssim]\n", "metricwatch.yaml:2:1: the key metrics is given twice"),
        ("watch:\n  - run: {name: a, name: b}\n", "metricwatch.yaml:2:20: the key name is given twice"),
        ("watch:\n\t- x\n", "metricwatch.yaml:2:1: "),
        ("a: b: c\n", "metricwatch.yaml:1:5: mapping values are not allowed here"),
        ("a: !!python/object:os.system x\n", "metricwatch.yaml:1:4: could not determine a constructor"),
        ("a: {b: ${C}}\n", "metricwatch.yaml:1:9: expected ',' or '}', but got '{'; put quotes around text"),
        ("- a\n- b\n", "metricwatch.yaml: must be a mapping"),
        ("a: 2024-99-99\n", "metricwatch.yaml:1:4: no such date; put quotes around text"),
        ("a: !!bool perhaps\n", "metricwatch.yaml:1:4: must be true or false"),
        ("a: !!timestamp soon\n", "metricwatch.yaml:1:4: no such date"),
        (f"a: {'7' * 5000}\n", "metricwatch.yaml:1:4: not a number that can be read, or one of thousands of digits"),
        ("a: " + "[" * 5000 + "]" * 5000, "metricwatch.yaml: nested deeper than 50 levels"),
        ("a: " + "[" * 60 + "]" * 60, "metricwatch.yaml:1:53: nested deeper than 50 levels"),
        ("state: &a [*a]\n", "metricwatch.yaml:1:8: an alias leads back to where it stands"),
        ("a: &a\n  b: *a\n", "metricwatch.yaml:1:4: an alias leads back to where it stands"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
            "metricwatch.yaml:16:6: more than 100,000 values once its aliases are followed",
        ),
        ("a: b\x01\n", "metricwatch.yaml:1: special characters are not allowed"),
    ],
)
def test_broken_yaml_is_answered_with_line_and_column(problems, text, start):
    assert problems(text)[0].startswith(start)


def test_an_alias_may_be_used_for_what_repeats(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(GOOD.replace("[fid]", "&m [fid]") + "rules: []\n")
    assert load_config(file, environ={}).metrics == ("fid",)
    file.write_text(GOOD.replace("{name: a}", "{name: &n a}") + "rules: [{name: *n, metric: fid, moves: 1, across: 5}]")
    assert load_config(file, environ={}).rules[0].name == "a"


@pytest.mark.parametrize("text", ["watch:\n\t- x\n", "a:\n  b: 1\n\tc: 2\n"])
def test_a_tab_is_called_by_its_name(problems, text):
    assert problems(text)[0].endswith("; indent with spaces, not tabs")


@pytest.mark.parametrize("text", ["a: 'mytable", "a: {b: 'mytable'\n"])
def test_a_word_with_tab_in_it_is_no_tab(problems, text):
    assert "tabs" not in problems(text)[0]


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("///", "must hold more than slashes"),
        ("a=b", "must be made of letters"),
        ("a\\n", "must be made of letters"),
        ("a//b", "must read like a plain path"),
        ("../a", "must read like a plain path"),
        ("a/..", "must read like a plain path"),
        ("./a", "must read like a plain path"),
        (".", "must read like a plain path"),
        ("a" * 131, "must have at most 130 characters"),
    ],
)
def test_a_prefix_that_mlflow_would_refuse_is_refused(problems, prefix, said):
    lines = problems(GOOD.replace("uri:", f'prefix: "{prefix}", uri:'))
    assert [line.partition(said)[0] for line in lines] == ["metricwatch.yaml: tracking.prefix: "]


@pytest.mark.parametrize("prefix", ["quality", "/a b/c-d_e.f:g/", "größe", "a" * 130])
def test_a_prefix_that_is_taken_is_one_for_mlflow_too(prefix):
    from mlflow.utils.validation import _validate_metric_name

    taken = Tracking(uri="http://x", prefix=prefix).prefix
    _validate_metric_name(f"{taken}/{'k' * 119}")


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (GOOD + 'state: "a\\0b"', "state", "holds a NUL character"),
        (GOOD + 'state: "a\\ud800b"', "state", "holds half a character"),
        (GOOD + 'telemetry: {host: "a\\0"}', "telemetry.host", "holds a NUL character"),
        (GOOD.replace("a/*", '"a/\\0*"'), "watch[0].samples", "holds a NUL character"),
        (GOOD.replace("{name: a}", '{name: "\\udc80"}'), "watch[0].run.name", "holds half a character"),
        (GOOD + 'notify: {"a\\0": {use: slack}}', "notify.a\0", "holds a NUL character"),
        (
            GOOD + 'notify: {a: {use: slack, webhook_url: "http://\\0"}}',
            "notify.a.webhook_url",
            "holds a NUL character",
        ),
        (entry("    reference: ~nosuchuser/x\n"), "watch[0].reference", "begins with the home folder of a user who"),
        (GOOD.replace("a/*", "~nosuchuser/*"), "watch[0].samples", "begins with the home folder of a user who"),
    ],
)
def test_text_that_nothing_could_use_is_refused_at_its_key(problems, text, key, said):
    (line,) = [line for line in problems(text) if said in line]
    assert line.startswith(f"metricwatch.yaml: {key}: {said}")


@pytest.mark.parametrize(
    ("worker", "line"),
    [
        ("{heartbeat_timeout: 4s}", "worker.heartbeat_timeout: must be at least 5s: the worker gives a sign of life"),
        ("{heartbeat_timeout: 1m, stall_timeout: 30s}", "worker.stall_timeout: must be at least heartbeat_timeout, wh"),
    ],
)
def test_a_worker_is_given_time_for_a_sign_of_life(problems, worker, line):
    (found,) = problems(GOOD + f"worker: {worker}")
    assert found.startswith(f"metricwatch.yaml: {line}")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(tmp_path / "c.yaml", environ={})


def test_an_empty_file_lists_what_is_required(problems):
    assert problems("") == [
        (
            "metricwatch.yaml: tracking.uri: not set; write the address of the tracking server here or set "
            "MLFLOW_TRACKING_URI"
        ),
        "metricwatch.yaml: watch: required, but not given",
        "metricwatch.yaml: metrics: required, but not given",
    ]


def test_an_unknown_key_names_the_nearest_known_one(problems):
    lines = problems(GOOD.replace("samples: a/*", "sampels: a/*"))
    assert "metricwatch.yaml: watch[0].sampels: unknown key; did you mean 'samples'?" in lines


def test_an_unknown_key_near_nothing_lists_what_is_known(problems):
    lines = problems(GOOD + "telemetry: {zzz: 1}")
    assert lines == ["metricwatch.yaml: telemetry.zzz: unknown key; known: host, port"]


def test_the_file_cannot_name_itself(problems):
    assert problems(GOOD + "file: x")[0].startswith("metricwatch.yaml: file: unknown key; ")


def test_an_unknown_metric_in_a_rule_names_the_nearest(problems):
    rule = "{{name: {}, metric: {}, moves: 10%, across: 5}}"
    text = GOOD + f"rules: [{rule.format('a', 'fid')}, {rule.format('b', 'fid')}, {rule.format('c', 'fdi')}]"
    assert problems(text) == ["metricwatch.yaml: rules[2].metric: unknown metric 'fdi'; did you mean 'fid'?"]


def test_a_rule_on_a_metric_that_is_not_computed_says_so(problems):
    lines = problems(GOOD + "rules: [{name: a, metric: ssim, moves: 10%, across: 5}]")
    assert lines == ["metricwatch.yaml: rules[0].metric: metric 'ssim' is not computed; add it to metrics"]


def test_all_problems_of_a_file_are_reported_together(problems):
    lines = problems("""
tracking: {uri: "${NOWHERE}", experimnt: x}
watch:
  - run: {name: a, id: b}
    samples: "runs/{name}/samples/*"
    every: 0
metrics: [fdi]
rules:
  - {name: "a b", metric: fdi, moves: -1, across: 1, mode: wild, receivers: [tema]}
notify:
  team: {use: slak}
  mail: hello
worker: {device: gpu, idle_exit: 0}
""")
    assert lines == [
        (
            "metricwatch.yaml: tracking.uri: the environment variable NOWHERE is not set; set it or write "
            "${NOWHERE:-default}"
        ),
        "metricwatch.yaml: tracking.experimnt: unknown key; did you mean 'experiment'?",
        "metricwatch.yaml: watch[0].run: needs exactly one of name, id and id_file; name and id are given",
        "metricwatch.yaml: watch[0].samples: {name} stands for nothing: {run} is the only placeholder there is",
        "metricwatch.yaml: watch[0].every: must be at least 1",
        "metricwatch.yaml: metrics[0]: unknown metric 'fdi'; did you mean 'fid'?",
        (
            "metricwatch.yaml: rules[0].name: must be made of letters, digits, - and _ only: it becomes part of a curve's "
            "name"
        ),
        "metricwatch.yaml: rules[0].metric: unknown metric 'fdi'; did you mean 'fid'?",
        "metricwatch.yaml: rules[0].receivers: unknown receiver 'tema'; did you mean 'team'?",
        "metricwatch.yaml: rules[0].moves: must be greater than 0",
        "metricwatch.yaml: rules[0].across: must be at least 2",
        "metricwatch.yaml: rules[0].mode: must be 'range', 'net' or 'each'",
        "metricwatch.yaml: notify.team.use: unknown notifier 'slak'; did you mean 'slack'?",
        "metricwatch.yaml: notify.mail: must be a mapping with use: and the notifier's options",
        "metricwatch.yaml: worker.device: must be auto, cpu, cuda or cuda:N",
        "metricwatch.yaml: worker.idle_exit: must be longer than zero",
    ]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("    settle: fast\n", "watch[0].settle: must be a duration such as 5s, 250ms, 10m, 4h or 1d"),
        ("    rescan: 0\n", "watch[0].rescan: must be longer than zero"),
        ("    markers: [a/b]\n", "watch[0].markers: a marker is the name of a file inside the sample directory, "),
        ("    markers: .done\n", "watch[0].markers: must be a list"),
        ("    step_pattern: '('\n", "watch[0].step_pattern: not a regular expression: missing ), unterminated"),
        ("    step_pattern: 'a(\\d+)'\n", "watch[0].step_pattern: has no group named step; write for example"),
        ("    reference: 'data/{run}'\n", "watch[0]: reference or pairs has {run}, run and samples have not"),
        ("    every: 2.5\n", "watch[0].every: must be a whole number"),
        ("    pairs: content\n", "watch[0].pairs: must be a mapping of keys to values"),
        ("    pairs: {contents: x}\n", "watch[0].pairs.contents: unknown key; did you mean 'content'?"),
    ],
)
def test_a_bad_watch_entry_is_answered_at_its_key(problems, more, line):
    (found,) = problems(entry(more))
    assert found.startswith(f"metricwatch.yaml: {line}")


def test_a_watch_entry_without_a_run_says_how_to_name_one(problems):
    (line,) = problems(GOOD.replace("run: {name: a}\n    ", ""))
    assert line.startswith("metricwatch.yaml: watch[0].run: says no run; write run: {name: ...}")


def test_two_entries_with_the_same_run_are_refused(problems):
    twice = GOOD.replace("metrics:", "  - run: {name: a}\n    samples: ./a/*\nmetrics:")
    assert problems(twice) == [
        "metricwatch.yaml: watch[1]: an earlier watch entry has the same run; give each entry a run of its own"
    ]


def test_two_rules_of_one_name_are_refused(problems):
    rule = "{name: a, metric: fid, moves: 10%, across: 5}"
    assert problems(GOOD + f"rules: [{rule}, {rule}]") == [
        "metricwatch.yaml: rules[1].name: another rule is already named 'a'; names are unique"
    ]


def test_a_metric_listed_twice_is_refused(problems):
    assert problems(GOOD.replace("[fid]", "[fid, fid]")) == ["metricwatch.yaml: metrics: 'fid' is listed twice"]


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ("[{ssim: {window: 11}}]", "metrics[0].ssim: the metric 'ssim' takes no options"),
        ("[{odd: {mood: hw}}]", "metrics[0].odd.mood: unknown key; did you mean 'mode'?"),
        ("[{odd: {mode: [hw]}}]", "metrics[0].odd.mode: must be text"),
        ("[{odd: {mode: wild}}]", "metrics[0].odd: mode must be chw or hw"),
        ("[{odd: hw}]", "metrics[0].odd: must be a mapping of options to values"),
        ("[{odd: {secret: {1: 2}}}]", "metrics[0].odd.secret: "),
        ("[{odd: {}, fid: {}}]", "metrics[0]: must be a metric's name, or one name with its options, such as"),
        ("[{}]", "metrics[0]: must be a metric's name"),
        ("[{1: {}}]", "metrics[0]: must be a metric's name"),
        ("[{fdi: {a: 1}}]", "metrics[0]: unknown metric 'fdi'; did you mean 'fid'?"),
        ("[fid, {odd: {mode: hw}}, odd]", "metrics: 'odd' is listed twice"),
        ("{odd: {}}", "metrics: must be a list"),
    ],
)
def test_bad_metric_options_are_answered_at_their_key(problems, install_metric, metrics, line):
    install_metric("odd")
    assert problems(GOOD.replace("[fid]", metrics))[0].startswith(f"metricwatch.yaml: {line}")


@pytest.mark.parametrize("key", ["metric_options: {}", "file: x"])
def test_what_is_worked_out_cannot_be_written(problems, key):
    (line,) = problems(GOOD + key)
    assert "unknown key; " in line
    assert not line.endswith(f"{key.partition(':')[0]}'?")


@pytest.mark.parametrize(
    ("extractors", "line"),
    [
        (
            "{inception: {}}",
            "extractors.inception: unknown feature extractor 'inception'; did you mean 'inception-v3'?",
        ),
        (
            "{inception-v3: {protocol: clen}}",
            "extractors.inception-v3.protocol: unknown protocol 'clen' of inception-v3",
        ),
        ("{inception-v3: {protocol: 3}}", "extractors.inception-v3.protocol: must be text"),
        ("{inception-v3: {wieghts: x}}", "extractors.inception-v3.wieghts: unknown key; did you mean 'weights'?"),
        ("[inception-v3]", "extractors: must be a mapping"),
    ],
)
def test_a_bad_extractor_is_answered_at_its_key(problems, extractors, line):
    (found,) = problems(GOOD + f"extractors: {extractors}")
    assert found.startswith(f"metricwatch.yaml: {line}")


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (
            "{metric: fid}",
            [
                "rules[0]: needs exactly one of moves, above, below, z_score, stale, nonfinite and state: moves: 10% with"
            ],
        ),
        ("{metric: fid, moves: 1, state: any}", ["rules[0]: needs exactly one of moves, "]),
        ("{metric: fid, above: 60, below: 40}", ["rules[0]: needs exactly one of moves, "]),
        ("{metric: fid, across: 5}", ["rules[0].moves: required, but not given"]),
        ("{metric: fid, window: 5}", ["rules[0].z_score: required, but not given"]),
        # More than one kind could say these.
        ("{metric: fid, for: 5}", ["rules[0]: needs exactly one of moves, "]),
        ("{metric: fid, direction: worse}", ["rules[0]: needs exactly one of moves, "]),
        (
            "{metric: fid, abov: 60}",
            ["rules[0].above: required, but not given", "rules[0].abov: unknown key; did you mean 'above'?"],
        ),
        (
            "{metric: fid, stat: any}",
            ["rules[0].state: required, but not given", "rules[0].stat: unknown key; did you mean 'state'?"],
        ),
        ("{metric: fid, state: any, fro: 2}", ["rules[0].fro: unknown key; did you mean 'for'?"]),
        (
            "{metric: fid, state: any, across: 2}",
            ["rules[0].across: unknown key; known: for, keep_firing, labels, "],
        ),
        ("{metric: fid, state: any, in_a_row: 2}", ["rules[0].in_a_row: unknown key; known: for,"]),
        ("{metric: fid, state: collapse}", ["rules[0].state: unknown state 'collapse'; did you mean 'collapsed'?"]),
        ("{metric: fid, state: [ok]}", ["rules[0].state: a score that is ok has a value; known: any, too_few_images"]),
        ("{metric: fid, state: []}", ["rules[0].state: must have at least one item"]),
        ("{metric: fid, state: 3}", ["rules[0].state: must be a list"]),
        ("{metric: fid, state: any, for: 0}", ["rules[0].for: must be at least 1"]),
        ("{metric: fdi, state: any}", ["rules[0].metric: unknown metric 'fdi'; did you mean 'fid'?"]),
        ("3", ["rules[0]: must be a mapping of keys to values"]),
        ("{metric: fid, moves: 10%, across: 1}", ["rules[0].across: must be at least 2"]),
        (
            "{metric: fid, moves: 10%, across: 5, for: 5}",
            ["rules[0]: for: 5 must be below across: 5: no more than 4 windows in a row show a jump"],
        ),
        (
            "{metric: fid, moves: 10%, across: 5, for: 2, runs: {'*': {across: 2}}}",
            ["rules[0].runs.*: for: 2 must be below across: 2: no more than 1 windows"],
        ),
        ("{metric: fid, above: .nan}", ["rules[0].above: must be a finite number"]),
        ("{metric: fid, above: -.inf}", ["rules[0].above: must be a finite number"]),
        ("{metric: fid, below: yes}", ["rules[0].below: must be a number"]),
        ("{metric: fid, below: 10%}", ["rules[0].below: must be a number"]),
        ("{metric: fid, above: 6, beyond_noise: 0}", ["rules[0].beyond_noise: must be greater than 0"]),
        ("{metric: fid, above: 6, across: 5}", ["rules[0].across: unknown key; known: above, beyond_noise, for,"]),
        (
            "{metric: fid, z_score: 0, window: 4}",
            ["rules[0].z_score: must be greater than 0", "rules[0].window: must be at least 5"],
        ),
        ("{metric: fid, z_score: .inf}", ["rules[0].z_score: must be a finite number"]),
        ("{metric: fid, nonfinite: no}", ["rules[0].nonfinite: false says nothing: remove the rule, or write nonf"]),
        ("{stale: 0s}", ["rules[0].stale: must be longer than zero"]),
        ("{stale: 2}", ["rules[0].stale: needs a unit: 2h, 90m or 1.5h"]),
        ("{stale: 2:30}", ["rules[0].stale: needs a unit: 2h, 90m or 1.5h"]),
        ("{metric: fid, moves: 10, across: 5}", ["rules[0].moves: 10 is 1000%; write 10% or, if you mean it, 1000%"]),
        ("{metric: fid, above: 10, for: yes}", ["rules[0].for: must be a number"]),
        ("{stale: 500ms}", ["rules[0].stale: must be at least 1s: the daemon looks once a second"]),
        ("{stale: soon}", ["rules[0].stale: must be a duration such as 5s, 250ms, 10m, 4h or 1d"]),
        (
            "{stale: 2h, for: 2, warmup: 3, keep_firing: 1}",
            [
                "rules[0].for: stale looks at time, not at evaluations; remove it",
                "rules[0].warmup: stale looks at time, not at evaluations; remove it",
                "rules[0].keep_firing: stale looks at time, not at evaluations; remove it",
            ],
        ),
        ("{metric: fid, above: 6, warmup: -1}", ["rules[0].warmup: must be at least 0"]),
        ("{metric: fid, above: 6, keep_firing: -1}", ["rules[0].keep_firing: must be at least 0"]),
        ("{metric: fid, above: 6, for: 2h}", ["rules[0].for: must be a whole number"]),
        ("{metric: fid, above: 6, severity: high}", ["rules[0].severity: must be 'critical', 'warning' or 'info'"]),
        ("{metric: fid, above: 6, labels: {run: b}}", ["rules[0].labels: every alert has a label run already; choose"]),
        (
            "{metric: fid, above: 6, labels: {my-team: b}}",
            ["rules[0].labels: a label's name is made of letters, digits and _ only, which 'my-team' is not"],
        ),
        (
            '{metric: fid, above: 6, labels: {team: "a\\nb"}}',
            ["rules[0].labels: the value of team holds a line break or another control character; remove it"],
        ),
        ("{metric: fid, above: 6, labels: {team: 3}}", ["rules[0].labels.team: must be text; put quotes around it"]),
        (
            "{metric: fid, above: 6, message: {titel: x}}",
            ["rules[0].message.titel: unknown key; did you mean 'title'?"],
        ),
        ('{metric: fid, above: 6, message: {title: ""}}', ["rules[0].message.title: must not be empty"]),
        (
            '{metric: fid, above: 6, message: {title: "{{ metric", text: "{{ vlaue }}"}}',
            [
                "rules[0].message.title: not a template: line 1: unexpected end of template",
                "rules[0].message.text: unknown variable 'vlaue'; did you mean 'value'?",
            ],
        ),
    ],
)
def test_a_rule_is_of_one_kind_and_answered_as_that(problems, rule, lines):
    found = problems(GOOD + f"rules: [{rule.replace('{', '{name: a, ', 1)}]")
    assert [
        line.removeprefix("metricwatch.yaml: ")[: len(start)] for line, start in zip(found, lines, strict=True)
    ] == lines


@pytest.mark.parametrize(
    "kind", ["moves: 1, across: 5", "above: 1", "below: 1", "z_score: 5", "stale: 2h", "nonfinite: true", "state: any"]
)
def test_an_unknown_metric_names_the_nearest_whatever_the_kind_of_rule(problems, kind):
    assert problems(GOOD + f"rules: [{{name: a, metric: fdi, {kind}}}]") == [
        "metricwatch.yaml: rules[0].metric: unknown metric 'fdi'; did you mean 'fid'?"
    ]
    (line,) = problems(GOOD + f"rules: [{{name: a, metric: kid, {kind}}}, {{name: b, metric: fid, {kind}}}]")
    assert line == "metricwatch.yaml: rules[0].metric: metric 'kid' is not computed; add it to metrics"


def test_only_a_rule_about_time_does_without_a_metric(tmp_path, problems):
    assert problems(GOOD + "rules: [{name: a, above: 1}]") == [
        "metricwatch.yaml: rules[0].metric: required, but not given"
    ]
    (tmp_path / "good.yaml").write_text(GOOD + "rules: [{name: a, stale: 2h}]")
    assert load_config(tmp_path / "good.yaml", environ={}).rules[0].metric == ""


def test_an_unknown_sink_names_the_nearest(problems):
    lines = problems(GOOD.replace("uri:", "sink: mlfow, uri:"))
    assert lines == ["metricwatch.yaml: tracking.sink: unknown sink 'mlfow'; did you mean 'mlflow'?"]


def test_a_number_where_text_belongs_asks_for_quotes(problems):
    (line,) = problems(GOOD.replace("{name: a}", "{id: 0123}"))
    assert line.startswith("metricwatch.yaml: watch[0].run.id: must be text; put quotes around it")


@pytest.mark.parametrize("reference", ["${", "${}", "${1}", "${A B}", "${A:-b"])
def test_a_malformed_reference_is_explained(problems, reference):
    (line,) = problems(GOOD.replace("{name: a}", f"{{name: '{reference}'}}"))
    assert line.startswith("metricwatch.yaml: watch[0].run.name: a reference is written ${NAME}")


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("METRICWATCH_WORKR__DEVICE", "cpu", "workr: unknown key; did you mean 'worker'?"),
        ("METRICWATCH_WORKER__DEVISE", "cpu", "worker.devise: unknown key; did you mean 'device'?"),
        ("METRICWATCH_WORKER__BATCH_SIZE", "0", "worker.batch_size: must be at least 1"),
        ("METRICWATCH_WATCH__5__EVERY", "1", "watch is a list of 1; give an index from 0 to 1"),
        ("METRICWATCH_WATCH__X__EVERY", "1", "watch is a list of 1; give an index from 0 to 1"),
        (f"METRICWATCH_WATCH__{'7' * 5000}__EVERY", "1", "watch is a list of 1; give an index from 0 to 1"),
        ("METRICWATCH_TRACKING__URI__X", "1", "tracking.uri is a single value and has no 'x'"),
        ("METRICWATCH_METRICS", "[", "its value is not valid YAML; quote it as in the file"),
        ("METRICWATCH_METRICS", "[fdi]", "metrics[0]: unknown metric 'fdi'; did you mean 'fid'?"),
        ("METRICWATCH_", "1", "names no setting; write METRICWATCH_SECTION__KEY"),
        ("METRICWATCH_NOTIFY__TEAM", "{use: slack, nope: 1}", "notify.team.nope: unknown key; known: "),
    ],
)
def test_a_bad_override_names_its_variable(problems, variable, value, line):
    assert any(found.startswith(f"{variable}: {line}") for found in problems(GOOD, **{variable: value}))


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(Config.model_fields)), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(tree=st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), TREES, max_size=6))
def test_any_tree_is_a_configuration_or_a_configuration_error(tmp_path, tree):
    import yaml

    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        config = load_config(file, environ={})
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        assert isinstance(config, Config)
        return
    assert all(line.startswith(str(file)) for line in lines)
