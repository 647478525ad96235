"""check: what it looks at, how bad it finds it, and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metricwatch.cli import app
from metricwatch.cli.weights import find_weights

BASE = """
tracking: {uri: "sqlite:///mlflow.db"}
watch:
  - run: {name: night}
    samples: samples/*
metrics: [fd_efficientnet_lite0]
"""


@pytest.fixture
def check(folder):
    """The findings of an offline check by item, as (level, detail), and the exit code under ""."""

    def check(text: str, *arguments: str) -> dict[str, tuple[str, str]]:
        (folder / "metricwatch.yaml").write_text(text)
        result = CliRunner().invoke(app, ["check", "--offline", "--json", *arguments])
        document = json.loads(result.stdout)
        assert result.exit_code == (0 if document["ok"] else 78)
        return {item["item"]: (item["level"], item["detail"]) for item in document["findings"]}

    return check


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def watching(more: str) -> str:
    return BASE.replace("    samples: samples/*\n", f"    samples: samples/*\n    {more}\n")


def test_a_complete_job_is_all_ok(check, folder):
    pictures(folder / "samples" / "step_1", "a.png")
    pictures(folder / "samples" / "step_2", "a.png")
    pictures(folder / "real", "a.png", "b.png", "c.png")
    found = check(watching("reference: real"))
    assert {level for level, _ in found.values()} == {"ok"}
    assert found["watch[0].samples"][1] == f"{folder}/samples/* matches 2 steps now"
    assert found["watch[0].reference"][1] == f"{folder}/real: 3 images"
    assert found["state"][1] == f"{folder}/metricwatch-state (will be created)"
    assert found["tracking"][1] == f"sqlite:///{folder}/mlflow.db (offline: not asked)"


def test_it_leaves_nothing_behind(check, folder):
    check(BASE)
    assert [path.name for path in folder.iterdir()] == ["metricwatch.yaml"]


def test_a_job_that_has_not_started_is_a_warning(check, folder):
    assert check(BASE)["watch[0].samples"] == (
        "warning",
        f"{folder}/samples does not exist yet; right if the training job creates it",
    )
    (folder / "samples").mkdir()
    assert check(BASE)["watch[0].samples"] == ("ok", f"{folder}/samples/* matches nothing yet")


def test_names_without_a_step_are_pointed_out(check, folder):
    pictures(folder / "samples" / "latest", "a.png")
    assert check(BASE)["watch[0].samples"] == (
        "warning",
        f"{folder}/samples/latest carries no step number that we see; set step_pattern",
    )
    pictures(folder / "samples" / "step_5", "a.png")
    assert check(BASE)["watch[0].samples"] == (
        "ok",
        f"{folder}/samples/* matches 1 step now, 1 match without a step left out",
    )


def test_a_metric_without_its_reference_is_a_warning_that_names_the_setting(check):
    text = BASE.replace("[fd_efficientnet_lite0]", "[fd_efficientnet_lite0, ssim]")
    found = check(text)
    lacks = "has nothing to compare with; set watch[0]"
    assert found["metrics: fd_efficientnet_lite0"] == ("warning", f"{lacks}.reference")
    assert found["metrics: ssim"] == (
        "warning",
        f"{lacks}.pairs.content, or save a manifest.jsonl with the samples",
    )


def test_a_reference_that_cannot_serve_is_an_error(check, folder):
    text = watching("reference: real")

    def found() -> tuple[str, str]:
        return check(text)["watch[0].reference"]

    assert found()[1].endswith("real does not exist; name a folder of images or an .npz with mu and sigma")
    pictures(folder / "real", "a.png")
    assert found() == ("error", f"{folder}/real holds 1 image; a reference needs at least 2")
    (folder / "real" / "b.png").write_text("no image")
    assert found() == ("warning", f"{folder}/real: b.png of 2 files looked at cannot be read")
    (folder / "real" / "a.png").write_text("no image")
    level, detail = found()
    assert level == "error"
    assert "none of 2 files looked at is a readable image" in detail


def test_saved_statistics_are_looked_into(check, folder):
    text = watching("reference: real.npz")

    def found() -> tuple[str, str]:
        return check(text)["watch[0].reference"]

    np.savez(folder / "real.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert found() == ("ok", f"{folder}/real.npz: statistics of 4 features")
    np.savez(folder / "real.npz", mu=np.zeros(4), sigma=np.eye(3))
    assert found() == ("error", f"{folder}/real.npz: mu (4,) and sigma (3, 3) do not fit; wanted (d,) and (d, d)")
    np.savez(folder / "real.npz", mu=np.zeros(4), cov=np.eye(4))
    assert found() == ("error", f"{folder}/real.npz has no array sigma; it has: mu, cov")
    np.savez(folder / "real.npz", mu=np.array([object()]), sigma=np.eye(1))
    assert found()[0] == "error"
    (folder / "real.npz").write_text("not a zip")
    assert found()[0] == "error"


def test_pairs_are_counted_by_stem(check, folder):
    text = watching("pairs: {content: content, style: style}")
    pictures(folder / "content", "a.png", "a.jpg", "b.png")
    (folder / "style").mkdir()
    found = check(text)
    assert found["watch[0].pairs.content"] == ("ok", f"{folder}/content: 2 stems")
    assert found["watch[0].pairs.style"] == ("error", f"{folder}/style holds no images")


def test_a_state_folder_that_cannot_be_one_is_an_error(check, folder):
    (folder / "state").write_text("a file")
    assert check(BASE + "state: state\n")["state"] == ("error", f"{folder}/state is not a folder; name another one")
    level, detail = check(BASE + "state: /proc/metricwatch\n")["state"]
    assert level == "error"
    assert detail.startswith("cannot write into /proc: ")


def test_missing_weights_name_the_file_the_way_to_get_it_and_the_alternative(check, tmp_path):
    text = BASE.replace("fd_efficientnet_lite0", "fid")
    level, detail = check(text)["extractors: inception-v3"]
    file = tmp_path / "torch" / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    assert level == "error"
    assert detail.startswith(f"{file} is not there; fetch it with: metricwatch weights fetch inception-v3")
    assert "extractors.inception-v3.weights" in detail
    assert "fd_efficientnet_lite0" in detail
    file.parent.mkdir(parents=True)
    file.touch()
    assert check(text)["extractors: inception-v3"] == ("ok", str(file))


def test_explicit_weights_must_be_a_file(check, folder):
    text = BASE.replace("fd_efficientnet_lite0", "fid") + "extractors: {inception-v3: {weights: w.pth}}\n"
    assert check(text)["extractors: inception-v3"] == (
        "error",
        f"{folder}/w.pth does not exist; correct extractors.inception-v3.weights or remove it",
    )
    (folder / "w.pth").touch()
    assert check(text)["extractors: inception-v3"] == ("ok", f"{folder}/w.pth")


def test_an_extractor_that_nobody_uses_is_a_warning(check):
    found = check(BASE + "extractors: {alexnet: {weights: /w}}\n")
    assert found["extractors: alexnet"] == ("warning", "no configured metric uses it; known: efficientnet-lite0")


def test_an_extractor_of_somebody_else_is_not_judged():
    assert find_weights("their-net", None, {}) is None


def test_a_notifier_that_cannot_work_is_an_error_without_its_secret(check):
    found = check(BASE + "notify: {team: {use: slack, webhook_url: hunter2}}\n")
    level, detail = found["configuration"]
    assert level == "error"
    assert "metricwatch.yaml: notify.team: webhook_url is not an http(s):// address" in detail
    assert "hunter2" not in detail
    found = check(BASE + "notify: {team: {use: slack, webhook_url: 'https://hooks.slack.com/services/x'}}\n")
    assert found["notify.team"] == ("ok", "slack is well-formed; try it with: metricwatch notify test team")


def test_a_tracking_address_without_idempotent_points_is_an_error(check):
    level, detail = check(BASE.replace("sqlite:///mlflow.db", "./mlruns"))["tracking"]
    assert level == "error"
    assert "directory of files" in detail


def test_every_configuration_problem_is_a_line_of_its_own(folder):
    (folder / "metricwatch.yaml").write_text("watch: []\nmetrics: [fdi]\n")
    result = CliRunner().invoke(app, ["check", "--offline"])
    assert result.exit_code == 78
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["error", "configuration"]] * 3
    assert lines[-1].endswith("metricwatch.yaml: metrics[0]: unknown metric 'fdi'; did you mean 'fid'?")
    assert result.stderr == "3 errors\n"


def test_people_get_aligned_lines_and_a_summary(folder):
    (folder / "metricwatch.yaml").write_text(BASE)
    result = CliRunner().invoke(app, ["check", "--offline"])
    assert result.exit_code == 0
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows[:3]] == [["ok", "configuration"], ["ok", "state"], ["warning", "watch[0].samples"]]
    assert len({line.index(row[2]) for line, row in zip(result.stdout.splitlines()[:3], rows, strict=False)}) == 1
    assert result.stderr == "4 ok, 2 warnings\n"


def test_a_missing_file_says_what_to_do(folder):
    result = CliRunner().invoke(app, ["check", "-c", "other.yaml"])
    assert result.exit_code == 78
    assert "other.yaml: no such file; write one with: metricwatch init other.yaml" in result.stdout
