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
