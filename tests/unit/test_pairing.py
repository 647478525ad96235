"""Who is compared with whom: by manifest before file stem, and never by guess."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metricwatch import listing
from metricwatch.records import ScoreState
from metricwatch.worker.samples import ChangedError
from tests.support.photos import write_crops
from tests.unit.test_evaluate import Bench, only


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "samples", 4, side=32, seed=3)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "content", 4, side=32, seed=4)


def write_manifest(folder: Path, entries: dict[str, str], field: str = "content") -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"image": image, field: value}) + "\n" for image, value in entries.items()))
    return path


def test_the_sets_own_manifest_comes_before_the_directory(samples: Path, content: Path) -> None:
    """0000 is paired with itself, so with 1.0; the others fall back to their stems."""
    by_stem = only(Bench().evaluate(samples, "ssim", content=content), "ssim")
    write_manifest(samples, {"0000.png": "0000.png"})
    mixed = only(Bench().evaluate(samples, "ssim", content=content), "ssim")
    assert mixed.images == 4
    assert mixed.value > by_stem.value + 0.1


def test_the_configured_manifest_serves_sets_without_one_of_their_own(
    samples: Path, content: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, {f"{index:04d}": f"samples/{index:04d}.png" for index in range(4)})
    found = only(Bench().evaluate(samples, "ssim", manifest=manifest), "ssim")
    assert found.value == pytest.approx(1.0)
    others = {f"{index:04d}.png": f"../content/{index:04d}.png" for index in range(4)}
    write_manifest(samples, others)
    assert only(Bench().evaluate(samples, "ssim", manifest=manifest), "ssim").value < 0.9


def test_an_image_that_the_manifest_leaves_out_is_named(samples: Path) -> None:
    manifest = write_manifest(samples, {"0000.png": "0001.png", "0001.png": "0000.png", "0002.png": "0003.png"})
    evaluation = Bench().evaluate(samples, "ssim")
    assert only(evaluation, "ssim").images == 3
    (skipped,) = evaluation.skipped
    assert skipped.path == str(samples / "0003.png")
    assert skipped.reason == f"no content partner named for it in {manifest}"


def test_a_partner_that_is_not_there_is_named(samples: Path) -> None:
    write_manifest(samples, {"0000.png": "gone.png", "0001.png": "0001.png"})
    evaluation = Bench().evaluate(samples, "ssim")
    assert only(evaluation, "ssim").images == 1
    assert any("gone.png is unusable: no such file" in item.reason for item in evaluation.skipped)


def test_a_manifest_without_the_field_is_a_named_state(samples: Path) -> None:
    manifest = write_manifest(samples, {"0000.png": "a cat"}, field="prompt")
    score = only(Bench().evaluate(samples, "ssim"), "ssim")
    assert score.state is ScoreState.NO_PAIRS
    assert score.detail == f"the manifest {manifest} names no content"


def test_a_broken_manifest_fails_those_who_need_it_and_nobody_else(samples: Path) -> None:
    (samples / "manifest.jsonl").write_text("{")
    evaluation = Bench().evaluate(samples, "ssim", "fd_efficientnet_lite0", reference=samples)
    assert only(evaluation, "ssim").state is ScoreState.FAILED
    assert "manifest.jsonl:1: not a JSON object" in only(evaluation, "ssim").detail
    assert only(evaluation, "fd_efficientnet_lite0").state is ScoreState.OK


@pytest.mark.parametrize("members", [("0000.png", "0001.png"), None])
def test_flat_samples_have_the_manifest_of_their_directory(samples: Path, members: tuple[str, ...] | None) -> None:
    write_manifest(samples, {"0000.png": "0000.png", "0001.png": "0001.png"})
    path = samples if members else samples / "0000.png"
    score = only(Bench().evaluate(path, "ssim", members=members), "ssim")
    assert (score.value, score.images) == (pytest.approx(1.0), 2 if members else 1)


def test_a_prompt_that_nobody_reads_is_no_part_of_what_a_score_depends_on(samples: Path, content: Path) -> None:
    one = only(Bench().evaluate(samples, "ssim", content=content, prompt="a cat"), "ssim")
    other = only(Bench().evaluate(samples, "ssim", content=content, prompt="a dog"), "ssim")
    assert one.provenance["pairs_digest"] == other.provenance["pairs_digest"]


def test_the_manifest_is_part_of_the_snapshot(samples: Path) -> None:
    write_manifest(samples, {"0000.png": "0001.png"})
    digest = listing.fingerprint(listing.parts(listing.scan(str(samples))))
    assert only(Bench().evaluate(samples, "ssim", digest=digest), "ssim").images == 1
    write_manifest(samples, {"0000.png": "0001.png", "0001.png": "0000.png"})
    with pytest.raises(ChangedError):
        Bench().evaluate(samples, "ssim", digest=digest)


# --- what a training job may name ------------------------------------------------------------------------------


def outside(folder: Path) -> str:
    return f"points outside {folder}; name its folder as pairs.content or pairs.style"


@pytest.mark.parametrize("way", ["up", "absolute", "link to a file", "link to a folder", "a folder of like name"])
def test_the_sets_own_manifest_names_nothing_outside_but_the_others_go_on(
    samples: Path, tmp_path: Path, way: str
) -> None:
    """The job that writes it may be anybody's; what it names is read and becomes part of a score."""
    secret = write_crops(tmp_path / "samples-secret", 1, side=32, seed=9) / "0000.png"
    (samples / "file.png").symlink_to(secret)
    (samples / "folder").symlink_to(secret.parent)
    named = {
        "up": "../samples-secret/0000.png",
        "absolute": str(secret),
        "link to a file": "file.png",
        "link to a folder": "folder/0000.png",
        "a folder of like name": f"{samples}-secret/0000.png",
    }[way]
    write_manifest(samples, {"0000.png": named, "0001.png": "0001.png", "0002.png": "./x/../0002.png"})
    evaluation = Bench().evaluate(samples, "ssim", members=("0000.png", "0001.png", "0002.png"))
    score = only(evaluation, "ssim")
    assert (score.images, score.value) == (2, pytest.approx(1.0))
    (skipped,) = evaluation.skipped
    assert skipped.path == str(samples / "0000.png")
    assert outside(samples) in skipped.reason


def test_where_all_it_names_lies_outside_the_state_says_what_to_do(samples: Path, content: Path) -> None:
    write_manifest(samples, {"0000.png": "../content/0000.png"})
    score = only(Bench().evaluate(samples, "ssim"), "ssim")
    assert score.state is ScoreState.NO_PAIRS
    assert outside(samples) in score.detail
    found = only(Bench().evaluate(samples, "ssim", style=content), "ssim")
    assert found.state is ScoreState.OK, "a folder of the request, of whatever kind"


def test_what_the_user_put_into_a_folder_of_theirs_may_be_a_link(samples: Path, content: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.png").symlink_to(content / "0000.png")
    (tmp_path / "way").symlink_to(links)
    write_manifest(samples, {"0000.png": "../links/a.png", "0001.png": "../way/a.png"})
    assert only(Bench().evaluate(samples, "ssim", content=tmp_path / "way"), "ssim").images == 2


def test_the_configured_manifest_names_what_it_likes_and_opens_its_own_folder(
    samples: Path, content: Path, tmp_path: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    manifest = write_manifest(lists, {"0000.png": "../content/0000.png", "0001.png": str(content / "0001.png")})
    assert only(Bench().evaluate(samples, "ssim", manifest=manifest), "ssim").images == 2
    shutil.copy(content / "0000.png", lists / "a.png")
    own = write_manifest(samples, {"0000.png": "../lists/a.png", "0001.png": "../content/0001.png"})
    assert only(Bench().evaluate(samples, "ssim", manifest=manifest), "ssim").images == 1
    assert only(Bench().evaluate(samples, "ssim", manifest=own), "ssim").images == 2, "it is the user's own now"
