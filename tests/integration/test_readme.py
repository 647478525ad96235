"""The README's plugin, taken from the README itself: installed, listed, scored and held to the contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metricwatch.cli.example import Choices, render
from metricwatch.config.loader import load_config
from metricwatch.config.routing import STALE_SILENCES_METRICS
from tests.support.job import QUIET

README = Path(__file__).parents[2] / "README.md"


def block(language: str, mark: str) -> str:
    """The README's code block of this language that holds `mark`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return next(text for text in blocks if mark in text)


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder as an installer would leave it: the module, and the metadata with its entry point."""
    site = tmp_path / "site"
    metadata = site / "my_metrics-0.1.dist-info"
    metadata.mkdir(parents=True)
    (site / "my_metrics.py").write_text(block("python", "class Brightness"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-metrics\nVersion: 0.1\n")
    groups = tomllib.loads(block("toml", "brightness"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in names.items()) for group, names in groups.items()]
    (metadata / "entry_points.txt").write_text("\n\n".join(lines) + "\n")
    return site


def test_the_composites_are_a_configuration(folder: Path) -> None:
    """Beside the smallest job that has what they need."""
    text = """
tracking: {uri: "sqlite:///mlflow.db"}
watch:
  - {run: {name: night, total_steps: 100}, samples: samples/*, reference: data, pairs: {content: data, style: data}}
"""
    (folder / "metricwatch.yaml").write_text(text + block("yaml", "composites:"))
    config = load_config(environ={})
    assert set(config.composites) == {"quality", "balance"}
    assert config.metric_options == {"gram_style_loss": {"normalise": "hw"}}


def call(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **QUIET, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_installed_plugin_is_listed_and_scores(site, photos, tmp_path):
    listed = json.loads(call(site, "-m", "metricwatch", "plugins", "list", "--json").stdout)["plugins"]
    assert {"kind": "metrics", "name": "brightness"}.items() <= next(
        plugin for plugin in listed if plugin["package"] == "my-metrics"
    ).items()
    done = call(
        site,
        *("-m", "metricwatch", "score", str(photos), "--metrics", "brightness", "--json", "--cache", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)["scores"][0]
    assert 0.2 < score["value"] < 0.8
    assert score["images"] == 24


def test_the_readmes_plugin_and_its_test_hold_the_contract(site, tmp_path):
    test = tmp_path / "test_brightness.py"
    test.write_text(block("python", "MetricContract"))
    done = call(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_the_readmes_configuration_is_valid(tmp_path):
    file = tmp_path / "metricwatch.yaml"
    file.write_text(block("yaml", "fid-moved"))
    (tmp_path / "smtp-password").write_text("secret")
    script = (
        "import sys\nfrom pathlib import Path\nfrom metricwatch.config import load_config\n"
        "print(load_config(Path(sys.argv[1])).rules[0].name)"
    )
    done = call(tmp_path, "-c", script, str(file))
    assert done.stdout.strip() == "fid-moved", done.stderr


JOB = """
tracking: {uri: "sqlite:///mlflow.db"}
watch: [{run: {name: night-run}, samples: samples/*, reference: data, pairs: {content: data}}]
metrics: [fid, ssim]
"""


def test_the_readmes_rules_are_valid(folder: Path) -> None:
    draft = "{run: {name: a-draft}, samples: d/*, reference: data, pairs: {content: data}}"
    (folder / "metricwatch.yaml").write_text(
        JOB.replace("]\nmetrics", f", {draft}]\nmetrics") + block("yaml", "ssim-low")
    )
    moved, dead, low = load_config(environ={}).rules
    assert (moved.warmup, dead.labels, low.in_a_row) == (5, {"team": "infra"}, 2)
    assert low.for_run("night-run").bound == 0.3
    assert low.for_run("a-draft") is None
    assert low.for_run("another").bound == 0.35


def test_the_readmes_routes_are_valid(folder: Path) -> None:
    secrets = {
        "/run/secrets/smtp": "s",
        "/run/secrets/pagerduty": "0123456789abcdef" * 2,
        "/run/secrets/hook": "https://h.example",
    }
    text = JOB + block("yaml", "quiet_hours")
    for number, (path, secret) in enumerate(secrets.items()):
        (folder / f"secret{number}").write_text(secret)
        text = text.replace(path, f"secret{number}")
    (folder / "metricwatch.yaml").write_text(text)
    config = load_config(environ={"SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/X"})
    assert set(config.notify) == {"team", "mail", "pager", "hook"}
    assert config.route.fallback == "mail"
    assert [route.receivers for route in config.route.routes] == [("pager", "team"), ()]


def test_the_readmes_tests_of_rules_pass_and_can_fail(folder: Path) -> None:
    (folder / "metricwatch.yaml").write_text(
        JOB + block("yaml", "ssim-low").replace('"*-draft": off', '"night-*": off')
    )
    (folder / "test.yaml").write_text(text := block("yaml", "a jump fires at once"))
    (folder / "broken.yaml").write_text(text.replace("36+0.1", "31+0.1"))
    for file, status in (("test.yaml", 0), ("broken.yaml", 1)):
        done = call(folder, "-m", "metricwatch", "rules", "test", file)
        assert done.returncode == status, done.stdout + done.stderr


def test_what_the_example_says_of_alerts_is_valid_once_it_is_switched_on(folder: Path) -> None:
    text = (README.parent / "deploy" / "metricwatch.yaml").read_text()
    alerts = text[text.index("# When to raise") : text.index("# The process that computes")]
    # Prose is "# Words"; a setting that is switched off begins with its key, or is indented as it will be.
    alerts = re.sub(r"^( *)#(?! \S)", r"\1", alerts, flags=re.MULTILINE)
    for name, secret in (("smtp", "s"), ("pagerduty", "0123456789abcdef" * 2)):
        (folder / name).write_text(secret)
        alerts = alerts.replace(f"/run/secrets/{name}", name)
    (folder / "metricwatch.yaml").write_text(JOB + alerts)
    environ = {"SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/X", "HOOK_URL": "https://h.example"}
    config = load_config(environ=environ)
    assert [rule.kind for rule in config.rules] == ["moves", "stale", "state", "above"]
    assert config.rules[0].beyond_noise == 4
    assert config.rules[0].message.text is not None
    assert len(config.rules[2].state) == 1
    assert set(config.notify) == {"team", "mail", "pager", "hook"}
    assert len(config.route.routes) == 2
    assert config.quiet_hours[0].timezone == "Europe/Berlin"
    assert config.inhibit == STALE_SILENCES_METRICS


def test_the_readmes_checkpoint_configuration_is_valid(tmp_path):
    file = tmp_path / "metricwatch.yaml"
    file.write_text(block("yaml", "newest_first"))
    script = (
        "import sys\nfrom pathlib import Path\nfrom metricwatch.config import load_config\n"
        "entry = load_config(Path(sys.argv[1])).watch[0]\nprint(entry.sampler.use, entry.backlog.most)"
    )
    done = call(tmp_path, "-c", script, str(file))
    assert done.stdout.strip() == "torchscript 20", done.stderr


def test_the_deployment_example_is_what_init_writes_and_is_valid(tmp_path):
    """deploy/metricwatch.yaml teaches the same as `metricwatch init`, line by line."""
    choices = Choices(
        run=("name", "night-run"),
        samples="runs/night/samples/*",
        tracking_uri="http://127.0.0.1:5000",
        metrics=("fid", "ssim"),
        reference="data/paintings",
        content="data/content",
    )
    assert (README.parent / "deploy" / "metricwatch.yaml").read_text() == render(choices)
