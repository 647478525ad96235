"""Every metric on every extractor in one evaluation, with stand-in weights of the real architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metricwatch import catalog
from metricwatch.records import Evaluation, ScoreState
from tests.support.photos import write_crops
from tests.support.weights import (
    write_alexnet_weights,
    write_art_inception_weights,
    write_clip_folder,
    write_dinov2_folder,
    write_inception_weights,
    write_vgg16_weights,
)
from tests.unit.test_evaluate import Bench, age

pytestmark = pytest.mark.slow
IMAGES, REFERENCE = 6, 7
# They take more images than a test has time for.
EXTRAPOLATED = {name for name in catalog.names("metrics") if "_inf" in name}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    made = {
        "inception-v3": write_inception_weights(folder / "inception.pth"),
        "vgg16": write_vgg16_weights(folder / "vgg16.pth", seed=1),
        "alexnet": write_alexnet_weights(folder / "alexnet.pth", seed=2),
        "clip-vit-b-32": write_clip_folder(folder / "clip", seed=3),
        "dinov2-vits14": write_dinov2_folder(folder / "dinov2", seed=4),
        "art-inception-v3": write_art_inception_weights(folder / "art.pth", seed=5),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    samples = write_crops(folder / "samples", IMAGES, side=64, seed=3, blur=0.7)
    lines = [{"image": path.name, "prompt": "a photo of a cat"} for path in sorted(samples.iterdir())]
    (samples / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {
        "path": samples,
        "content": write_crops(folder / "content", IMAGES, side=64, seed=3),
        "style": write_crops(folder / "style", IMAGES, side=80, seed=5),
        "reference": age(write_crops(folder / "reference", REFERENCE, side=64, seed=4)),
    }


def evaluate(bench: Bench, request: dict[str, Path], *names: str) -> Evaluation:
    options = {"clip_style_score": {"contrast": ["a drawing", "a photo"]}}
    others = {name: path for name, path in request.items() if name != "path"}
    return bench.evaluate(request["path"], *names, options=options, **others)


def test_one_decode_a_picture_and_one_pass_a_network_serve_all_metrics(
    weights: dict[str, str], request_of: dict[str, Path], tmp_path: Path
) -> None:
    names = [name for name in catalog.names("metrics") if name not in EXTRAPOLATED]
    assert len(names) >= 60
    bench = Bench(tmp_path / "cache", weights=weights)
    first = evaluate(bench, request_of, *names)
    states = {score.key: (score.state, score.detail) for score in first.scores if score.state is not ScoreState.OK}
    assert not states
    pooled, layers = IMAGES + REFERENCE, 3 * IMAGES
    assert first.work == {
        "decodes": 3 * IMAGES + REFERENCE,
        "cached": 0,
        "passes inception-v3": pooled,
        "passes efficientnet-lite0": pooled,
        "passes dinov2-vits14": pooled,
        # Style pictures beside the samples, for clip_style_similarity.
        "passes clip-vit-b-32": pooled + IMAGES,
        "passes art-inception-v3": pooled,
        # Features and maps see pictures at different sizes: a pass each. AlexNet's maps are of samples and content.
        "passes vgg16": pooled + layers,
        "passes st-vgg16": pooled + layers,
        "passes alexnet": pooled + 2 * IMAGES,
    }
    again = evaluate(Bench(tmp_path / "cache", weights=weights), request_of, *names)
    assert {name: count for name, count in again.work.items() if count} == {"cached": again.work["cached"]}
    assert {score.key: score.value for score in again.scores} == {score.key: score.value for score in first.scores}


def test_each_extrapolated_distance_says_how_many_images_it_needs(
    weights: dict[str, str], request_of: dict[str, Path]
) -> None:
    names = ("fid_inf", "fd_inf_dinov2")
    found = {score.key: score for score in evaluate(Bench(weights=weights), request_of, *names).scores}
    assert found["fid_inf"].state is ScoreState.TOO_FEW_IMAGES
    assert found["fid_inf"].detail == "extrapolating 2048 dimensions needs 4096 images, got 6"
    assert found["fd_inf_dinov2"].detail == "extrapolating 384 dimensions needs 768 images, got 6"


def test_the_protocols_of_inception_are_told_apart(weights: dict[str, str], request_of: dict[str, Path]) -> None:
    found = {}
    for protocol in ("pytorch-fid", "tf", "clean"):
        bench = Bench(weights=weights, protocols={"inception-v3": protocol})
        (score,) = evaluate(bench, request_of, "fid").scores
        assert score.provenance["protocol"] == protocol
        found[score.series] = score.value
    assert len(found) == 3
    assert len(set(found.values())) == 3
