"""Loaded extractors: real weights give real features, each is loaded once, and missing weights are looked for again."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
import torch

from metricwatch import extractors
from metricwatch.errors import ConfigError, MissingWeightsError
from metricwatch.protocol import Configure
from metricwatch.worker import networks
from metricwatch.worker.engines import EagerEngine, select_device, set_up
from metricwatch.worker.loading import Extractors
from metricwatch.worker.networks.tensors import read_tensors
from tests.support.photos import crops

CPU = torch.device("cpu")


def quiet(*_: str, **__: str) -> None:
    """A log that nobody reads."""


def as_tensors(pictures: list) -> list[torch.Tensor]:
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]


@pytest.fixture(scope="module")
def lite_engine() -> EagerEngine:
    spec = extractors.find("efficientnet-lite0")
    return EagerEngine(spec, networks.load(spec, spec.weights.locate()), "imagenet-224", CPU)


def test_efficientnet_sees_an_espresso_in_a_cup_of_coffee(lite_engine: EagerEngine) -> None:
    """The pooled features through the file's own classifier: weights, order and preprocessing all fit."""
    tensors = read_tensors(extractors.find("efficientnet-lite0").weights.locate(), "efficientnet-lite0")
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


def test_an_extractor_is_loaded_once_and_knows_its_digest() -> None:
    loaded = Extractors(Configure(), CPU, quiet)
    first = loaded.get("efficientnet-lite0")
    assert first is loaded.get("efficientnet-lite0")
    assert first.digest == "579344248a93e230"


def test_a_protocol_may_be_chosen_and_must_be_one_of_the_extractors(inception_weights: Path) -> None:
    weights = {"inception-v3": str(inception_weights)}
    chosen = Extractors(Configure(weights=weights, protocols={"inception-v3": "clean"}), CPU, quiet)
    assert chosen.get("inception-v3").protocol == "clean"
    assert Extractors(Configure(weights=weights), CPU, quiet).get("inception-v3").protocol == "pytorch-fid"
    wrong = Extractors(Configure(weights=weights, protocols={"inception-v3": "cleen"}), CPU, quiet)
    with pytest.raises(ConfigError, match="has no protocol 'cleen'; did you mean 'clean'"):
        wrong.get("inception-v3")


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


@pytest.mark.parametrize("configure", [Configure(precision="sloppy"), Configure(engine="warp")])
def test_unknown_ways_of_computing_are_refused(configure: Configure) -> None:
    with pytest.raises(ConfigError, match="is unknown; known:"):
        set_up(configure)


def test_exact_means_no_tf32() -> None:
    set_up(Configure(device="cpu"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
