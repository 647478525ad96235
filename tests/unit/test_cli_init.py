"""init: a file that works as it stands, and says what else there is."""

from __future__ import annotations

import re

import pytest
import yaml
from typer.testing import CliRunner

from metricwatch.cli import app
from metricwatch.cli.example import Choices, render
from metricwatch.config import load_config
from metricwatch.config.rules import keys_of

OPTIONAL = re.compile(r"^( *)#(?=(?:  )*(?:- )?(?:[a-z][a-z0-9_-]*:))", re.MULTILINE)


def init(*arguments: str):
    return CliRunner().invoke(app, ["init", *arguments])


def test_an_empty_directory_gets_a_file_that_loads(folder):
    result = init()
    assert result.exit_code == 0
    first, metrics, reference, last = result.stderr.splitlines()
    assert (first, last) == ("wrote metricwatch.yaml", "next: metricwatch check, then metricwatch run")
    assert metrics.startswith("  metrics: fd_efficientnet_lite0 (Inception-v3's weights are not here")
    assert reference == "  reference: none yet, set it"
    config = load_config(environ={})
    assert config.tracking.uri == f"sqlite:///{folder}/mlflow.db"
    assert config.watch[0].target.name == "night"
    assert config.watch[0].samples == f"{folder}/samples/*"
    assert config.watch[0].reference is None
    assert sorted(path.name for path in folder.iterdir()) == ["metricwatch.yaml"]


def test_every_option_reaches_the_file(folder):
    init(
        *("--run", 'my "run"', "--samples", "out/*/img_*.png", "--reference", "real", "--content", "content"),
        *("--tracking-uri", "http://mlflow:5000"),
    )
    config = load_config(environ={})
    entry = config.watch[0]
    assert entry.target.name == 'my "run"'
    assert entry.samples == f"{folder}/out/*/img_*.png"
    assert (entry.reference, entry.pairs.content) == (folder / "real", folder / "content")
    assert config.tracking.uri == "http://mlflow:5000"
    assert config.metrics[-1] == "ssim"


def test_the_environment_is_referred_to_not_copied(folder):
    environ = {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow", "MLFLOW_RUN_ID": "abc"}
    CliRunner().invoke(app, ["init"], env=environ)
    assert "hunter2" not in (folder / "metricwatch.yaml").read_text()
    config = load_config(environ=environ)
    assert config.tracking.uri == "http://me:hunter2@mlflow"
    assert config.watch[0].target.id == "abc"


def test_conventional_folders_are_found(folder):
    (folder / "data" / "reference").mkdir(parents=True)
    (folder / "content").mkdir()
    init()
    entry = load_config(environ={}).watch[0]
    assert entry.reference == folder / "data" / "reference"
    assert entry.pairs.content == folder / "content"


def test_paths_are_written_for_a_file_in_another_folder(folder):
    (folder / "etc").mkdir()
    init("etc/watch.yaml", "--reference", "real")
    entry = load_config(folder / "etc" / "watch.yaml", environ={}).watch[0]
    assert entry.samples == f"{folder}/samples/*"
    assert entry.reference == folder / "real"


def test_an_existing_file_is_kept_unless_forced(folder):
    file = folder / "metricwatch.yaml"
    file.write_text("precious")
    result = init()
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "metricwatch: metricwatch.yaml exists already; write another file, or overwrite it with --force"
    ]
    assert file.read_text() == "precious"
    assert init("--force").exit_code == 0
    assert "precious" not in file.read_text()


@pytest.mark.parametrize("option", [(), ("--force",)])
def test_a_missing_folder_is_named(folder, option):
    result = init("nowhere/metricwatch.yaml", *option)
    assert result.exit_code == 1
    assert "nowhere does not exist; create the folder first" in result.stderr


def test_fid_is_chosen_where_its_weights_lie(folder, tmp_path):
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "pt_inception-2015-12-05-6726825d.pth").touch()
    init()
    assert load_config(environ={}).metrics == ("fid",)


@pytest.mark.parametrize("content", [None, "data/content"])
@pytest.mark.parametrize("reference", [None, "data/real"])
@pytest.mark.parametrize("run", [("name", "night"), ("id_file", "runs/night/id")])
def test_every_commented_setting_is_valid_once_its_mark_is_removed(folder, run, reference, content):
    text = render(
        Choices(
            run=run,
            samples="samples/*",
            tracking_uri="http://x",
            metrics=("fid",),
            reference=reference,
            content=content,
        )
    )
    file = folder / "metricwatch.yaml"
    (folder / "smtp").write_text("secret")
    (folder / "pagerduty").write_text("0123456789abcdef" * 2)
    enabled = re.sub(r"^#( +- \{)", r"\1", OPTIONAL.sub(r"\1", text), flags=re.MULTILINE).replace("/run/secrets/", "")
    file.write_text(enabled)
    config = load_config(environ={"SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/x", "HOOK_URL": "https://x"})
    assert set(config.notify) == {"team", "mail", "pager", "hook"}
    assert config.watch[0].every == 1000
    assert config.watch[0].reference == folder / "data" / "real"
    assert config.telemetry.port == 9464
    # Nothing the schema offers is left out of what the file teaches.
    written = yaml.safe_load(enabled)
    assert set(written) == set(type(config).model_fields) - {"file", "metric_options"}
    images, checkpoints = written["watch"]
    assert {*images, *checkpoints} == set(type(config.watch[0]).model_fields)
    assert {*checkpoints["sampler"]} - {"latent"} == set(type(config.watch[1].sampler).model_fields) - {"options"}
    assert set(images["backlog"]) == set(type(config.watch[0].backlog).model_fields)
    assert set(written["rules"][0]) == keys_of(type(config.rules[0]))
    assert set(written["watch"][0]["pairs"]) == set(type(config.watch[0].pairs).model_fields)
    assert set(written["worker"]) == set(type(config.worker).model_fields)
    assert set(written["telemetry"]) == set(type(config.telemetry).model_fields)
