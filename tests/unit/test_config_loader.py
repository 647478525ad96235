"""What a good file gives."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from metricwatch.config import Config, StateRule, Telemetry, WorkerConfig, load_config
from metricwatch.errors import ConfigError
from metricwatch.records import Run, ScoreState
from tests.support import plugin

MINIMAL = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - run: {name: night-run}
    samples: runs/night/samples/*
metrics: [fid]
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str, **environ: str) -> Config:
        file = tmp_path / "metricwatch.yaml"
        file.write_text(text)
        return load_config(file, environ=environ)

    return read


@pytest.fixture
def install_metric(tmp_path, monkeypatch):
    """Install a metric with options, by name, until the test is over."""
    yield lambda name: plugin.install_metric(tmp_path / "site", monkeypatch, name)
    monkeypatch.undo()
    plugin.forget_plugins()


def test_a_minimal_file_has_all_the_defaults(read, tmp_path):
    config = read(MINIMAL)
    assert config.file == tmp_path / "metricwatch.yaml"
    assert config.state == tmp_path / "metricwatch-state"
    assert (config.tracking.experiment, config.tracking.prefix, config.tracking.sink) == (
        "Default",
        "quality",
        "mlflow",
    )
    assert config.worker == WorkerConfig()
    assert config.worker.idle_exit == timedelta(minutes=10)
    assert config.telemetry == Telemetry(host="127.0.0.1", port=None)
    entry = config.watch[0]
    assert (entry.settle, entry.rescan) == (timedelta(seconds=5), timedelta(seconds=10))
    assert entry.markers == (".done", "_SUCCESS")
    assert entry.reference is None
    assert (config.rules, config.notify, config.extractors) == ((), {}, {})


def test_the_file_in_the_working_directory_is_the_default(tmp_path, monkeypatch):
    (tmp_path / "metricwatch.yaml").write_text(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_config(environ={}).file == tmp_path / "metricwatch.yaml"


def test_relative_paths_count_from_the_files_folder(read, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = read("""
state: ./state
tracking: {uri: "sqlite:///curves/mlflow.db"}
extractors: {inception-v3: {weights: models/w.pth}}
watch:
  - run: {id_file: runs/night/mlflow_run_id}
    samples: ./runs/night/samples/*
    reference: /data/real
    pairs: {content: content, style: ../style}
metrics: [fid]
""")
    entry = config.watch[0]
    assert config.state == tmp_path / "state"
    assert config.tracking.uri == f"sqlite:///{tmp_path}/curves/mlflow.db"
    assert config.extractors["inception-v3"].weights == tmp_path / "models/w.pth"
    assert entry.samples == f"{tmp_path}/runs/night/samples/*"
    assert entry.reference == Path("/data/real")
    assert entry.pairs.content == tmp_path / "content"
    assert entry.pairs.style == tmp_path.parent / "style"
    assert entry.target.id_file == f"{tmp_path}/runs/night/mlflow_run_id"


def test_a_folder_with_glob_characters_in_its_name_is_taken_literally(tmp_path):
    folder = tmp_path / "run[1]"
    (folder / "samples" / "step_1").mkdir(parents=True)
    (folder / "metricwatch.yaml").write_text(MINIMAL.replace("runs/night/samples", "samples"))
    import glob

    config = load_config(folder / "metricwatch.yaml", environ={})
    assert glob.glob(config.watch[0].samples) == [str(folder / "samples" / "step_1")]


@pytest.mark.parametrize(
    ("written", "run"),
    [
        ("{name: night, total_steps: 9}", Run(key="name:gan/night", name="night", total_steps=9)),
        ("{id: abc}", Run(key="id:abc", name="abc", id="abc")),
        ("{id_file: /runs/night/id}", Run(key="id_file:/runs/night/id", name="night", id_file="/runs/night/id")),
    ],
)
def test_a_run_has_a_key_that_never_changes(read, written, run):
    text = MINIMAL.replace("{name: night-run}", written).replace("5000", "5000/").replace('/"}', '", experiment: gan}')
    assert read(text).watch[0].target == run
    assert read(text).watch[0].source == run.key


def test_without_a_run_the_environments_run_is_watched(read):
    config = read(MINIMAL.replace("run: {name: night-run}\n    ", ""), MLFLOW_RUN_ID="abc123")
    assert config.watch[0].target == Run(key="id:abc123", name="abc123", id="abc123")


def test_without_a_uri_the_environments_tracking_server_is_used_as_it_is(read):
    text = MINIMAL.replace('tracking: {uri: "http://mlflow:5000"}', "")
    assert read(text, MLFLOW_TRACKING_URI="sqlite:///mlflow.db").tracking.uri == "sqlite:///mlflow.db"


def test_a_section_with_every_line_commented_out_is_absent(read):
    config = read(MINIMAL + "notify:\n#  team: {}\nrules:\nworker:\n")
    assert (config.notify, config.rules, config.worker) == ({}, (), WorkerConfig())


def test_rules_are_read_with_percent_and_defaults(read):
    rule = read(MINIMAL + "rules: [{name: fid-moved, metric: fid, moves: 10%, across: 5}]").rules[0]
    assert (rule.moves, rule.across, rule.mode, rule.direction) == (pytest.approx(0.1), 5, "range", "any")
    assert (rule.beyond_noise, rule.receivers) == (None, None)


def test_a_rule_may_name_a_part_of_a_configured_metric(read):
    text = MINIMAL.replace("[fid]", "[fid, gram_style_loss]")
    rule = "rules: [{name: x, metric: gram_style_loss_relu1_1, moves: 0.1, across: 5}]"
    assert read(text + rule).rules[0].metric == "gram_style_loss_relu1_1"
    with pytest.raises(ConfigError, match="unknown metric 'fid_stderr'"):
        read(MINIMAL + rule.replace("gram_style_loss_relu1_1", "fid_stderr"))


def test_variables_are_replaced_in_any_string(read):
    text = MINIMAL.replace("night-run", "'${JOB}-${PART:-one}${EMPTY:-two}$${JOB}'").replace("5000", "${PORT}")
    config = read(text, JOB="night", PORT="80", EMPTY="")
    assert config.watch[0].target.name == "night-onetwo${JOB}"
    assert config.tracking.uri == "http://mlflow:80"


def test_a_number_may_come_from_a_variable(read):
    assert read(MINIMAL + "telemetry: {port: '${PORT}'}", PORT="9464").telemetry.port == 9464


def test_the_environment_overrides_the_file(read):
    config = read(
        MINIMAL,
        METRICWATCH_WORKER__DEVICE="cpu",
        METRICWATCH_WATCH__0__EVERY="500",
        METRICWATCH_METRICS="[ssim]",
        METRICWATCH_TRACKING__URI="http://other",
        METRICWATCH_RULES="[{name: r, metric: ssim, moves: 5%, across: 3}]",
        METRICWATCH_DEBUG="1",
    )
    assert config.worker.device == "cpu"
    assert config.watch[0].every == 500
    assert config.metrics == ("ssim",)
    assert config.tracking.uri == "http://other"
    assert config.rules[0].moves == pytest.approx(0.05)


def test_an_override_finds_a_key_whatever_its_case_and_dashes(read):
    text = MINIMAL + "extractors: {inception-v3: {weights: /a}}"
    config = read(text, METRICWATCH_EXTRACTORS__INCEPTION_V3__WEIGHTS="/b")
    assert {name: item.weights for name, item in config.extractors.items()} == {"inception-v3": Path("/b")}


def test_an_override_can_append_to_a_list(read):
    config = read(MINIMAL, METRICWATCH_METRICS__1="ssim")
    assert config.metrics == ("fid", "ssim")


def test_an_override_saves_a_file_whose_variable_is_missing(read):
    text = MINIMAL.replace("http://mlflow:5000", "${NOT_SET}")
    assert read(text, METRICWATCH_TRACKING__URI="http://x").tracking.uri == "http://x"


def test_the_configuration_cannot_be_changed(read):
    with pytest.raises(ValidationError):
        read(MINIMAL).metrics = ("ssim",)


# --- metrics and extractors --------------------------------------------------------------------------------


def test_a_metric_may_have_options_beside_its_name(read, install_metric):
    install_metric("odd")
    config = read(MINIMAL.replace("[fid]", "[fid, {odd: {mode: hw, words: [a, b], file: w.bin}}, {ssim: {}}]"))
    assert config.metrics == ("fid", "odd", "ssim")
    assert config.metric_options == {
        "odd": {"mode": "hw", "words": ["a", "b"], "file": str(config.file.parent / "w.bin")}
    }


def test_options_that_are_the_defaults_are_as_good_as_none(read, install_metric):
    install_metric("odd")
    assert read(MINIMAL.replace("[fid]", "[{odd: {mode: chw}}]")).metric_options == {}
    assert read(MINIMAL.replace("[fid]", "[{odd: }]")).metric_options == {}


def test_options_may_come_from_the_environment(read, install_metric):
    install_metric("odd")
    config = read(MINIMAL.replace("[fid]", "[{odd: {mode: chw}}]"), METRICWATCH_METRICS__0__ODD__MODE="hw")
    assert config.metric_options == {"odd": {"mode": "hw"}}


def test_an_extractor_may_use_another_of_its_protocols(read):
    config = read(MINIMAL + "extractors: {inception-v3: {protocol: clean}}")
    assert (config.extractors["inception-v3"].protocol, config.extractors["inception-v3"].weights) == ("clean", None)


def test_pairs_may_come_from_a_manifest_and_share_a_prompt(read, tmp_path):
    text = MINIMAL.replace("metrics:", "    pairs: {manifest: pairs/manifest.jsonl, prompt: a painting}\nmetrics:")
    pairs = read(text).watch[0].pairs
    assert (pairs.manifest, pairs.prompt) == (tmp_path / "pairs/manifest.jsonl", "a painting")


@pytest.mark.parametrize(("written", "size"), [("500MB", 500_000_000), ("0", 0), ("2GiB", 2**31)])
def test_the_feature_cache_has_a_size(read, written, size):
    assert read(MINIMAL).worker.feature_cache == 2_000_000_000
    assert read(MINIMAL + f"worker: {{feature_cache: {written}}}").worker.feature_cache == size


def test_a_state_rule_names_one_state_several_or_any(read):
    rules = read(
        MINIMAL + "rules:\n"
        "  - {name: a, metric: fid, state: any}\n"
        "  - {name: b, metric: fid, state: collapsed, for: 3}\n"
        "  - {name: c, metric: fid, state: [non_finite, collapsed], receivers: []}\n"
    ).rules
    assert all(isinstance(rule, StateRule) for rule in rules)
    assert [rule.in_a_row for rule in rules] == [1, 3, 1]
    assert [[state.value for state in ScoreState if rule.names(state)] for rule in rules] == [
        [state.value for state in ScoreState if state is not ScoreState.OK],
        ["collapsed"],
        ["non_finite", "collapsed"],
    ]
