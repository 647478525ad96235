"""metricwatch weights: list, fetch, verify."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner, Result

from metricwatch import extractors
from metricwatch.cli import app
from metricwatch.extractors.torch_hub import checkpoints
from tests.support.model_hub import serve_repository
from tests.support.weights import write_dinov2_folder

CONFIG = """
tracking: {uri: "sqlite:///mlflow.db"}
watch: [{run: {name: night}, samples: samples/*}]
metrics: [ssim]
"""


@pytest.fixture(autouse=True)
def empty_caches(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def weights(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["weights", *arguments])


def said(result: Result) -> list[str]:
    """The lines of stderr, without the log of the server that runs in the same process."""
    return [line for line in result.stderr.splitlines() if "logger=werkzeug" not in line]


def listed(*arguments: str) -> dict[str, dict]:
    return {item["name"]: item for item in json.loads(weights("list", "--json", *arguments).stdout)["extractors"]}


@pytest.fixture
def inception_at(monkeypatch: pytest.MonkeyPatch):
    """Let inception-v3 come from another address, with another published digest."""

    def serve(url: str, published: str) -> None:
        spec = extractors.find("inception-v3")
        moved = replace(spec, weights=replace(spec.weights, url=url, published=published))
        monkeypatch.setitem(extractors._BY_NAME, "inception-v3", moved)

    return serve


def test_the_list_names_every_extractor_and_how_to_get_what_is_missing() -> None:
    lines = weights("list").stdout.splitlines()
    assert lines[0].split() == ["EXTRACTOR", "IN", "KEYS", "D", "WEIGHTS", "SIZE", "LICENCE"]
    assert [line.split()[0] for line in lines[1:]] == list(extractors.names())
    by_name = {line.split()[0]: line for line in lines[1:]}
    assert "missing: metricwatch weights fetch inception-v3" in by_name["inception-v3"]
    assert "2048" in by_name["inception-v3"]
    assert "efficientnet-lite0-57934424.pth  19 MB" in by_name["efficientnet-lite0"]
    assert by_name["dinov2-vits14"].endswith("Apache-2.0")


def test_the_list_is_there_for_programs_too() -> None:
    found = listed()
    assert found["inception-v3"]["path"] is None
    assert found["inception-v3"]["missing"] == "metricwatch weights fetch inception-v3"
    assert found["inception-v3"]["protocols"] == ["pytorch-fid", "tf", "clean"]
    assert found["efficientnet-lite0"]["missing"] is None
    assert found["efficientnet-lite0"]["bytes"] == os.path.getsize(found["efficientnet-lite0"]["path"])
    assert found["clip-vit-b-32"]["has_text"]


def test_paths_of_the_configuration_are_honoured(folder: Path) -> None:
    (folder / "w.pth").write_bytes(b"12345")
    text = "extractors: {inception-v3: {weights: w.pth}, alexnet: {weights: gone.pth}}\n"
    (folder / "metricwatch.yaml").write_text(CONFIG + text)
    found = listed()
    assert (found["inception-v3"]["path"], found["inception-v3"]["bytes"]) == (str(folder / "w.pth"), 5)
    assert found["alexnet"]["missing"] == f"{folder}/gone.pth does not exist"
    fetched = weights("fetch", "inception-v3")
    assert (fetched.exit_code, fetched.stderr) == (0, f"inception-v3: already at {folder}/w.pth\n")
    assert weights("fetch", "alexnet").exit_code == 1
    assert weights("list", "-c", "other.yaml").exit_code == 78


def test_fetch_puts_the_file_where_its_library_looks(httpserver: HTTPServer, inception_at) -> None:
    httpserver.expect_request("/w").respond_with_data(b"content")
    inception_at(httpserver.url_for("/w"), hashlib.sha256(b"content").hexdigest()[:8])
    place = Path(checkpoints(), "pt_inception-2015-12-05-6726825d.pth")
    first = weights("fetch", "inception-v3")
    assert (first.exit_code, said(first), first.stdout) == (0, [f"inception-v3: now at {place}"], "")
    assert place.read_bytes() == b"content"
    assert listed()["inception-v3"]["path"] == str(place)
    second = weights("fetch", "inception-v3")
    assert (second.exit_code, second.stderr) == (0, f"inception-v3: already at {place}\n")
    assert len(httpserver.log) == 1


def test_a_failed_fetch_says_why_and_leaves_with_1_after_the_others(httpserver: HTTPServer, inception_at) -> None:
    httpserver.expect_request("/w").respond_with_data(b"another file")
    inception_at(httpserver.url_for("/w"), "0123abcd")
    result = weights("fetch", "inception-v3", "efficientnet-lite0")
    assert result.exit_code == 1
    first, second = said(result)
    assert first.startswith("metricwatch: inception-v3: the weights pt_inception")
    assert "its SHA-256 begins" in first
    assert "not 0123abcd" in first
    assert second.startswith("efficientnet-lite0: already at ")
    assert not list(Path(checkpoints()).iterdir())


def test_offline_a_fetch_says_what_else_can_be_done(inception_at) -> None:
    inception_at("http://127.0.0.1:9/w", "0123abcd")
    result = weights("fetch", "inception-v3")
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr
    assert "Fetch http://127.0.0.1:9/w on a machine with internet" in result.stderr
    assert "fd_efficientnet_lite0" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("inception-v3", "--all"), ("inception-v4",)])
def test_a_fetch_of_nothing_known_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert weights("fetch", *arguments).exit_code == 2


def fetch_in_a_process(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The hub's library reads its variables when it is imported."""
    command = [sys.executable, "-m", "metricwatch", "weights", "fetch", "dinov2-vits14"]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


def test_a_model_folder_comes_through_the_hubs_own_library(httpserver: HTTPServer, tmp_path: Path) -> None:
    folder = write_dinov2_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_text("not needed where there are safetensors")
    (folder / "README.md").write_text("not needed")
    serve_repository(httpserver, "facebook/dinov2-small", folder)
    result = fetch_in_a_process({"HF_ENDPOINT": httpserver.url_for("").rstrip("/"), "HF_HUB_DISABLE_XET": "1"})
    assert result.returncode == 0, result.stderr
    source = extractors.find("dinov2-vits14").weights
    path = source.locate()
    assert path.startswith(str(tmp_path / "hf" / "hub" / "models--facebook--dinov2-small" / "snapshots"))
    assert result.stderr == f"dinov2-vits14: now at {path}\n"
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors"]
    assert source.digest(path) == source.digest(str(folder))


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "onnection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "ffline mode"),
    ],
)
def test_offline_a_model_folder_says_what_else_can_be_done(environ: dict[str, str], reason: str) -> None:
    result = fetch_in_a_process(environ)
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Download the folder https://huggingface.co/facebook/dinov2-small" in result.stderr
    assert "Traceback" not in result.stderr


def test_verify_compares_with_what_was_published(folder: Path) -> None:
    result = weights("verify")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()[1:]}
    assert set(lines) == {"efficientnet-lite0", "st-vgg16"}
    assert "ok" in lines["efficientnet-lite0"].split()
    assert "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db" in lines["efficientnet-lite0"]


def test_verify_finds_another_file_and_leaves_with_1(folder: Path) -> None:
    (folder / "w.pth").write_bytes(b"another")
    result = weights("verify", "--weights", "inception-v3=w.pth")
    assert result.exit_code == 1
    assert "differs from 6726825d" in result.stdout
    assert hashlib.sha256(b"another").hexdigest() in result.stdout
    assert "efficientnet-lite0" not in result.stdout


def test_verify_says_where_nothing_was_published(folder: Path) -> None:
    (folder / "w.pth").write_bytes(b"content")
    result = weights("verify", "art-inception-v3", "--weights", "art-inception-v3=w.pth")
    assert result.exit_code == 0
    assert "no published digest" in result.stdout


def test_verifying_what_is_missing_is_an_error() -> None:
    result = weights("verify", "inception-v3")
    assert result.exit_code == 1
    assert "metricwatch weights fetch inception-v3" in result.stderr
    assert weights("verify", "--weights", "inception-v3").exit_code == 2
    assert weights("verify", "inception-v4").exit_code == 2
