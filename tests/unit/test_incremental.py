"""Only what is new is paid for: one decode an image, one pass a network, and none for what is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metricwatch.records import Evaluation, ScoreState
from tests.support.photos import write_crops
from tests.unit.test_evaluate import FD, Bench, age, only

ALL_OFFLINE = (
    FD,
    "kd_efficientnet_lite0",
    "precision_efficientnet_lite0",
    "recall_efficientnet_lite0",
    "ssim",
    "st_lpips",
    "st_content_loss",
    "st_gram_style_loss",
)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """samples and partners (8 each) and a reference (9)."""
    return {
        "samples": write_crops(tmp_path / "samples", 8, side=48, seed=3, blur=0.7),
        "content": write_crops(tmp_path / "content", 8, side=48, seed=3),
        "style": write_crops(tmp_path / "style", 8, side=64, seed=5),
        "reference": age(write_crops(tmp_path / "reference", 9, side=48, seed=4)),
    }


def evaluate(bench: Bench, folders: dict[str, Path], *metrics: str) -> Evaluation:
    request = {name: folders[name] for name in ("reference", "content", "style")}
    return bench.evaluate(folders["samples"], *metrics, **request)


def values(evaluation: Evaluation) -> dict[str, tuple[float | None, float | None]]:
    assert {score.state for score in evaluation.scores} == {ScoreState.OK}, evaluation.scores
    return {score.key: (score.value, score.stderr) for score in evaluation.scores}


def assert_close(found: tuple[float | None, float | None], expected: tuple[float | None, float | None]) -> None:
    """Other batches round otherwise."""
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == (None if expected[1] is None else pytest.approx(expected[1], rel=1e-3))


def test_all_metrics_together_cost_one_decode_a_picture_and_one_pass_a_network(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    work = evaluate(Bench(tmp_path / "cache"), folders, *ALL_OFFLINE, "fd_st_vgg16").work
    # 8 samples, 8 contents, 8 styles, 9 references.
    assert work["decodes"] == 33
    assert work["passes efficientnet-lite0"] == 8 + 9
    # Its pooled features are of another preprocessing than its layers: two kinds of input, a pass each.
    assert work["passes st-vgg16"] == (8 + 9) + (8 + 8 + 8)


def test_together_and_alone_they_score_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    together = values(evaluate(Bench(tmp_path / "cache"), folders, *ALL_OFFLINE))
    for name in (FD, "recall_efficientnet_lite0", "ssim", "st_gram_style_loss"):
        for key, alone in values(evaluate(Bench(), folders, name)).items():
            assert_close(together[key], alone)


def test_a_second_look_computes_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """By a restarted worker as well, which has only the disk to remember by."""
    first = evaluate(Bench(tmp_path / "cache"), folders, *ALL_OFFLINE)
    again = evaluate(Bench(tmp_path / "cache"), folders, *ALL_OFFLINE)
    assert {name: count for name, count in again.work.items() if count} == {"cached": again.work["cached"]}
    assert values(again) == values(first)


def test_a_growing_set_costs_only_what_is_new(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    later = [folders["samples"] / f"{index:04d}.png" for index in (6, 7)]
    for path in later:
        shutil.move(path, tmp_path / path.name)
    evaluate(bench, folders, *ALL_OFFLINE)
    for path in later:
        shutil.move(tmp_path / path.name, path)
    grown = evaluate(bench, folders, *ALL_OFFLINE)
    assert grown.work["decodes"] == 2 * 3
    assert grown.work["passes efficientnet-lite0"] == 2
    fresh = values(evaluate(Bench(), folders, *ALL_OFFLINE))
    for key, found in values(grown).items():
        assert_close(found, fresh[key])


def test_a_new_metric_on_the_same_network_computes_no_features(folders: dict[str, Path], tmp_path: Path) -> None:
    evaluate(Bench(tmp_path / "cache"), folders, FD)
    work = evaluate(Bench(tmp_path / "cache"), folders, FD, "kd_efficientnet_lite0").work
    assert work["decodes"] == 0
    assert work["passes efficientnet-lite0"] == 0


def test_the_same_picture_under_another_name_is_known(folders: dict[str, Path], tmp_path: Path) -> None:
    evaluate(Bench(tmp_path / "cache"), folders, FD)
    for index, path in enumerate(sorted(folders["samples"].iterdir())):
        path.rename(path.with_name(f"renamed_{index}.png"))
    assert evaluate(Bench(tmp_path / "cache"), folders, FD).work["decodes"] == 0


def test_another_partner_is_measured_anew(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    before = only(evaluate(bench, folders, "ssim", FD), "ssim")
    shutil.copy(folders["content"] / "0001.png", folders["content"] / "0000.png")
    evaluation = evaluate(bench, folders, "ssim", FD)
    after = only(evaluation, "ssim")
    assert evaluation.work["decodes"] == 2
    assert evaluation.work["passes efficientnet-lite0"] == 0
    assert after.value < before.value
    assert after.provenance["names_digest"] == before.provenance["names_digest"]
    assert after.provenance["pairs_digest"] != before.provenance["pairs_digest"]


def test_options_are_no_cache_hit_for_each_other(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    chw = only(evaluate(bench, folders, "st_gram_style_loss"), "st_gram_style_loss")
    request = {name: folders[name] for name in ("reference", "content", "style")}
    options = {"st_gram_style_loss": {"normalise": "hw"}}
    hw = only(
        bench.evaluate(folders["samples"], "st_gram_style_loss", options=options, **request), "st_gram_style_loss"
    )
    assert hw.value > 1000 * chw.value
    assert hw.series != chw.series
    assert json.loads(hw.provenance["options"]) == {"normalise": "hw"}


def test_without_a_cache_everything_is_computed_each_time(folders: dict[str, Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache", feature_cache_bytes=0)
    evaluate(bench, folders, "ssim", FD)
    work = evaluate(bench, folders, "ssim", FD).work
    assert (work["decodes"], work["cached"]) == (16, 0)


def test_pictures_too_small_for_a_network_are_left_out_and_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for role in ("samples", "content", "style"):
        write_crops(tmp_path / f"small-{role}", 1, side=12, seed=1)
        shutil.move(tmp_path / f"small-{role}" / "0000.png", folders[role] / "small.png")
    evaluation = evaluate(Bench(tmp_path / "cache"), folders, "ssim", "st_lpips", "st_content_loss", FD)
    assert {score.key: score.images for score in evaluation.scores} == {
        "ssim": 9,
        "st_lpips": 8,
        "st_content_loss": 8,
        FD: 9,
    }
    assert only(evaluation, "st_lpips").detail == "left out for a side under 18 pixels: small"


def test_pictures_of_many_sizes_share_what_they_can(folders: dict[str, Path], tmp_path: Path) -> None:
    for index, side in enumerate((40, 64, 80)):
        for role in ("samples", "content", "style"):
            write_crops(tmp_path / f"{role}-{side}", 1, side=side, seed=index)
            shutil.move(tmp_path / f"{role}-{side}" / "0000.png", folders[role] / f"size_{side}.png")
    evaluation = evaluate(Bench(tmp_path / "cache"), folders, *ALL_OFFLINE)
    assert {score.images for score in evaluation.scores} == {11}
    assert evaluation.work["passes efficientnet-lite0"] == 11 + 9
