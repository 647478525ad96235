"""Samples that are copies of the reference are found, named and shown, and no score ever pays for it."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate, Heartbeat, Looking, Sampling
from metricwatch.records import Evaluation, Look, Lookalike
from metricwatch.worker.reference_index import IndexMaker, Near, ReferenceIndex
from metricwatch.worker.references import FilesBatch
from tests.support.photos import crops, write_crops
from tests.support.samplers import install_painter, write_checkpoint
from tests.unit.test_evaluate import FD, Bench, age, only

SIDE = 48


class Viewer(Bench):
    """A bench that asks for lookalikes, in a folder of its own each time, and can act when a phase begins."""

    def __init__(self, folder: Path, cache: Path | None = None, **configure: object) -> None:
        self.acts: dict[str, Callable[[], None]] = {}
        self.folder = folder
        self.looks = 0
        super().__init__(cache, **configure)

    def _note(self, beat: Heartbeat) -> None:
        super()._note(beat)
        if act := self.acts.pop(beat.phase, None):
            act()

    def looking(self, neighbours: int = 4) -> Looking:
        self.looks += 1
        return Looking(folder=str(self.folder / f"look-{self.looks}"), samples=0, compared=0, neighbours=neighbours)

    def evaluation(self, path: Path, reference: Path, *metrics: str, neighbours: int = 4) -> Evaluation:
        return self.evaluate(path, *(metrics or (FD,)), reference=reference, look=self.looking(neighbours))

    def view(self, path: Path, reference: Path, neighbours: int = 4) -> Look:
        look = self.evaluation(path, reference, neighbours=neighbours).look
        assert look is not None
        return look


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def summary(look: Look) -> list[tuple[str, list[str]]]:
    return [(each.name, [near.name for near in each.nearest]) for each in look.lookalikes]


def first(look: Look, name: str) -> Lookalike:
    (found,) = (each for each in look.lookalikes if each.name == name)
    return found


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "samples", 5, side=SIDE, seed=3)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return age(write_crops(tmp_path / "reference", 6, side=SIDE, seed=4))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that knows the features of these pictures, and nothing else."""
    folder = tmp_path_factory.mktemp("known")
    write_crops(folder / "all", 5, side=SIDE, seed=3)
    for path in write_crops(folder / "more", 6, side=SIDE, seed=4).iterdir():
        path.rename(folder / "all" / f"more-{path.name}")
    Bench(folder / "cache").evaluate(folder / "all", FD, reference=folder / "all")
    shutil.rmtree(folder / "cache" / "references")
    return folder / "cache"


@pytest.fixture
def cache(tmp_path: Path, known: Path) -> Path:
    return Path(shutil.copytree(known, tmp_path / "cache"))


@pytest.fixture
def viewer(tmp_path: Path, cache: Path) -> Viewer:
    return Viewer(tmp_path, cache)


# --- what is found -----------------------------------------------------------------------------------------


def test_a_planted_copy_is_found_at_distance_zero_with_the_name_and_picture_of_its_file(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copy(reference / "0004.png", samples / "copied.png")
    viewer = Viewer(tmp_path)
    look = viewer.view(samples, reference, neighbours=2)
    copied = look.lookalikes[0]
    assert (copied.name, copied.nearest[0].name, copied.nearest[0].distance) == ("copied", "0004.png", 0.0)
    assert np.array_equal(pixels(copied.image), pixels(reference / "0004.png"))
    assert np.array_equal(pixels(copied.nearest[0].image), pixels(reference / "0004.png"))
    assert np.array_equal(pixels(copied.nearest[1].image), pixels(reference / copied.nearest[1].name))
    assert [len(each.nearest) for each in look.lookalikes] == [3, 3]
    assert (look.space, look.searched) == ("efficientnet-lite0", 6)
    assert look.usual_distance is not None
    assert look.usual_distance > 0
    distances = [near.distance for near in copied.nearest]
    assert distances == sorted(distances)
    assert all(os.path.dirname(near.image) == str(viewer.folder / "look-1") for near in copied.nearest)


def test_copies_in_other_clothes_come_before_strangers(samples: Path, reference: Path, viewer: Viewer) -> None:
    content = io.BytesIO()
    Image.open(reference / "0002.png").save(content, "JPEG", quality=90)
    (samples / "jpeg.jpg").write_bytes(content.getvalue())
    Image.fromarray(np.roll(pixels(reference / "0003.png"), 1, axis=1)).save(samples / "shifted.png")
    look = viewer.view(samples, reference)
    assert {each.name for each in look.lookalikes[:2]} == {"jpeg", "shifted"}
    assert first(look, "jpeg").nearest[0].name == "0002.png"
    assert first(look, "shifted").nearest[0].name == "0003.png"
    near, stranger = look.lookalikes[1].nearest[0].distance, look.lookalikes[2].nearest[0].distance
    assert 0 < near < stranger


def test_neither_batches_nor_the_order_of_files_change_what_is_found(
    samples: Path, reference: Path, tmp_path: Path, viewer: Viewer
) -> None:
    look = viewer.view(samples, reference)
    turned = tmp_path / "turned"
    turned.mkdir()
    for place, path in enumerate(sorted(samples.iterdir(), reverse=True)):
        shutil.copy(path, turned / f"{place}-{path.name}")
    back = Viewer(tmp_path / "one")
    back.evaluator._pipeline.batch_size = 1
    other = back.view(turned, reference)
    assert [(name[2:], near) for name, near in summary(other)] == summary(look)
    for one, two in zip(look.lookalikes, other.lookalikes, strict=True):
        assert [near.distance for near in two.nearest] == pytest.approx([near.distance for near in one.nearest], 1e-5)


def test_files_that_share_a_stem_are_told_apart(samples: Path, reference: Path, viewer: Viewer) -> None:
    Image.fromarray(crops(1, side=SIDE, seed=50)[0]).save(samples / "0000.jpg")
    shutil.copy(samples / "0000.png", reference / "0004.bmp")
    look = viewer.view(samples, reference, neighbours=1)
    assert look.lookalikes[0].nearest[0].name == "0004.bmp"
    assert np.array_equal(pixels(look.lookalikes[0].image), pixels(samples / "0000.png"))


def test_pictures_whose_features_are_known_are_shown_as_well(samples: Path, reference: Path, viewer: Viewer) -> None:
    evaluation = viewer.evaluation(samples, reference)
    assert evaluation.work["passes efficientnet-lite0"] == 0
    assert evaluation.look is not None
    assert len(evaluation.look.lookalikes) == 4
    for each in evaluation.look.lookalikes:
        assert np.array_equal(pixels(each.image), pixels(samples / f"{each.name}.png"))


def test_samples_of_a_checkpoint_are_compared_too(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, viewer: Viewer
) -> None:
    install_painter(tmp_path / "site", monkeypatch)
    content = write_crops(tmp_path / "content", 3, side=32, seed=8)
    for path in content.iterdir():
        shutil.copy(path, reference / f"stolen-{path.name}")
    checkpoint = write_checkpoint(tmp_path / "step.json", level=0.0)
    sampling = Sampling(use="painter", options={"needs": ["content"], "random": False}, pins=str(tmp_path / "pins"))
    evaluation = viewer.evaluator.evaluate(
        Evaluate(
            job=1,
            path=str(checkpoint.parent),
            members=(checkpoint.name,),
            metrics=(FD,),
            reference=str(reference),
            content=str(content),
            sampling=sampling,
            look=viewer.looking(),
        )
    )
    assert evaluation.look is not None
    assert {each.name: each.nearest[0].name for each in evaluation.look.lookalikes} == {
        f"000{number}": f"stolen-000{number}.png" for number in range(3)
    }
    assert all(Path(each.image).is_file() for each in evaluation.look.lookalikes)


# --- references --------------------------------------------------------------------------------------------


def test_pictures_in_folders_below_the_reference_are_no_part_of_it(
    samples: Path, reference: Path, viewer: Viewer
) -> None:
    (reference / "below").mkdir()
    shutil.copy(samples / "0001.png", reference / "below")
    look = viewer.view(samples, reference)
    assert look.searched == 6
    assert all(near.distance > 0 for each in look.lookalikes for near in each.nearest)


def test_a_changed_reference_is_searched_as_it_is_now(samples: Path, reference: Path, viewer: Viewer) -> None:
    shutil.copy(samples / "0003.png", reference / "0000.png")
    age(reference)
    assert viewer.view(samples, reference, 1).lookalikes[0].nearest[0].name == "0000.png"
    (reference / "0000.png").rename(reference / "renamed.png")
    assert viewer.view(samples, reference, 1).lookalikes[0].nearest[0].name == "renamed.png"
    (reference / "renamed.png").unlink()
    look = viewer.view(samples, reference, 1)
    assert (look.searched, look.lookalikes[0].nearest[0].distance > 0) == (5, True)


def test_names_that_have_changed_places_show_no_wrong_picture(
    samples: Path, reference: Path, tmp_path: Path, viewer: Viewer
) -> None:
    shutil.copy(samples / "0003.png", reference / "0000.png")
    age(reference)
    viewer.view(samples, reference, 1)
    (reference / "0000.png").rename(tmp_path / "aside.png")
    (reference / "0001.png").rename(reference / "0000.png")
    (tmp_path / "aside.png").rename(reference / "0001.png")
    near = viewer.view(samples, reference, 1).lookalikes[0].nearest[0]
    assert (near.distance, near.image) == (0.0, "")


def test_a_reference_image_that_goes_before_it_is_shown_leaves_its_name(
    samples: Path, reference: Path, viewer: Viewer
) -> None:
    shutil.copy(reference / "0004.png", samples / "copied.png")
    viewer.acts["looking"] = (reference / "0004.png").unlink
    nearest = viewer.view(samples, reference, 1).lookalikes[0].nearest
    assert (nearest[0].name, nearest[0].image, nearest[0].distance) == ("0004.png", "", 0.0)
    assert all(near.image for near in nearest[1:])
    ((level, _, fields),) = (line for line in viewer.lines if line[1] == "lookalike not shown")
    assert (level, fields["path"]) == ("warning", str(reference / "0004.png"))
    assert "no such file" in fields["reason"]


def test_statistics_have_no_images_to_look_for(samples: Path, reference: Path, viewer: Viewer) -> None:
    statistics = reference.with_suffix(".npz")
    np.savez(statistics, mu=np.zeros(1280), sigma=np.eye(1280))
    evaluation = viewer.evaluation(samples, statistics)
    assert only(evaluation, FD).value is not None
    assert evaluation.look is None
    assert viewer.lines == []


def test_a_reference_of_two_images_gives_two_neighbours(samples: Path, reference: Path, viewer: Viewer) -> None:
    for path in sorted(reference.iterdir())[2:]:
        path.unlink()
    look = viewer.view(samples, reference)
    assert (look.searched, {len(each.nearest) for each in look.lookalikes}) == (2, {2})
    assert look.usual_distance is not None


# --- what it costs -----------------------------------------------------------------------------------------


def test_statistics_and_index_come_from_one_pass(samples: Path, reference: Path, tmp_path: Path) -> None:
    viewer = Viewer(tmp_path)
    evaluation = viewer.evaluation(samples, reference)
    assert evaluation.work["passes efficientnet-lite0"] == 5 + 6
    assert viewer.phases.count("reading the reference") == 1
    assert viewer.evaluation(samples, reference).work["passes efficientnet-lite0"] == 5


def test_an_index_for_known_statistics_takes_no_pass_through_the_network(
    samples: Path, reference: Path, tmp_path: Path, cache: Path
) -> None:
    plain = Bench(cache).evaluate(samples, FD, reference=reference)
    later = Viewer(tmp_path, cache)
    seen = later.evaluation(samples, reference)
    assert seen.work["passes efficientnet-lite0"] == 0
    assert seen.look is not None
    assert seen.look.searched == 6
    assert (seen.scores, seen.skipped) == (plain.scores, plain.skipped)
    last = Viewer(tmp_path, cache)
    look = last.view(samples, reference)
    assert summary(look) == summary(seen.look)
    assert look.usual_distance == seen.look.usual_distance
    assert "reading the reference" not in last.phases


def test_scores_are_the_same_with_and_without(samples: Path, reference: Path, viewer: Viewer, known: Path) -> None:
    metrics = (FD, "kd_efficientnet_lite0", "ssim")
    seen = viewer.evaluate(samples, *metrics, reference=reference, content=samples, look=viewer.looking())
    plain = Bench(known).evaluate(samples, *metrics, reference=reference, content=samples)
    assert seen.look is not None
    assert seen.look.lookalikes
    assert (seen.scores, seen.provenance) == (plain.scores, plain.provenance)


def test_an_index_that_cannot_be_made_costs_a_line_and_is_not_tried_at_once_again(
    samples: Path, reference: Path, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: IndexMaker) -> None:
        raise MemoryError("no room for an index")

    with monkeypatch.context() as patch:
        patch.setattr(IndexMaker, "statistics", full)
        for _ in range(2):
            evaluation = viewer.evaluation(samples, reference)
            assert only(evaluation, FD).value is not None
            assert evaluation.look is None
    assert viewer.events().count("lookalikes failed") == 1
    assert viewer.evaluation(samples, reference).look is None
    viewer.now += 601
    assert viewer.view(samples, reference).searched == 6


def test_a_search_that_fails_midway_shows_nothing(
    samples: Path, reference: Path, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ReferenceIndex.nearest
    calls = []

    def breaks(index: ReferenceIndex, *rest: object) -> list[list[Near]]:
        calls.append(rest)
        if len(calls) > 1:
            raise ValueError("broken")
        return whole(index, *rest)  # type: ignore[arg-type]

    shutil.copy(samples / "0000.png", samples / "one-for-a-second-batch.png")
    monkeypatch.setattr(ReferenceIndex, "nearest", breaks)
    evaluation = viewer.evaluation(samples, reference)
    assert only(evaluation, FD).value is not None
    assert evaluation.look is None
    assert viewer.events() == ["lookalikes failed"]
    assert len(calls) == 2


def test_nobody_who_asks_for_none_pays_for_an_index(samples: Path, reference: Path, viewer: Viewer) -> None:
    assert viewer.evaluation(samples, reference, neighbours=0).look is None
    assert viewer.evaluate(samples, "ssim", content=samples, look=viewer.looking()).look is None
    assert len(viewer.evaluator._references._kept) == 1


# --- the index ---------------------------------------------------------------------------------------------


def batch_of(rows: np.ndarray, places: range | list[int]) -> FilesBatch:
    return FilesBatch(
        names=tuple(f"{place:04d}.png" for place in places),
        digests=tuple(np.random.default_rng(place).bytes(16) for place in places),
        features={"net": torch.from_numpy(rows[list(places)])},
    )


def filled(rows: np.ndarray, *places: range | list[int], most: int = 1000) -> IndexMaker:
    maker = IndexMaker(most=most)
    for each in places:
        maker.update(batch_of(rows, each))
    return maker


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(3.0, 1.0, size=(400, 24)).astype(np.float32)


def test_the_index_agrees_with_distances_taken_one_by_one(rows: np.ndarray) -> None:
    index = ReferenceIndex(filled(rows, range(100), range(100, 400)).statistics())
    asked = np.random.default_rng(8).normal(3.0, 1.0, size=(300, 24)).astype(np.float32)
    found = index.nearest(asked, [b"\0" * 16] * 300, 3)
    apart = np.linalg.norm(asked[:, None].astype(np.float64) - rows[None].astype(np.float64), axis=2)
    order = np.argsort(apart, axis=1)[:, :3]
    assert [[index.names[near.row] for near in each] for each in found] == [
        [f"{place:04d}.png" for place in each] for each in order
    ]
    distances = [[near.distance for near in each] for each in found]
    np.testing.assert_allclose(distances, np.take_along_axis(apart, order, axis=1), rtol=1e-12)
    within = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None].astype(np.float64), axis=2)
    np.fill_diagonal(within, np.inf)
    assert index.usual_distance == pytest.approx(np.median(within.min(axis=1)), rel=1e-9)


def test_a_file_with_the_same_content_is_at_zero_whatever_its_features_were_rounded_to(rows: np.ndarray) -> None:
    index = ReferenceIndex(filled(rows, range(50)).statistics())
    digest = batch_of(rows, [17]).digests
    (near,), _ = index.nearest(rows[[17, 18]] * np.float32(1 + 1e-6), [*digest, b"\0" * 16], 1)
    assert (index.names[near.row], near.distance) == ("0017.png", 0.0)
    assert index.nearest(rows[[18]], [b"\0" * 16], 1)[0][0].distance == 0.0


def test_a_choice_of_many_is_the_same_in_any_order_and_by_merging(rows: np.ndarray) -> None:
    one = filled(rows, range(400), most=50).statistics()
    backwards = [range(place, place + 1) for place in reversed(range(400))]
    two = filled(rows, *backwards, most=50).statistics()
    merged = filled(rows, range(250, 400), most=50)
    merged.merge(filled(rows, range(250), most=50))
    for other in (two, merged.statistics()):
        assert sorted(other["names"]) == sorted(one["names"])
        assert float(other["usual_distance"]) == pytest.approx(float(one["usual_distance"]), rel=1e-12)
        for name, row in zip(other["names"], other["features"], strict=True):
            assert np.array_equal(row, rows[int(name[:4])])
    assert len(one["names"]) == 50
    places = [int(name[:4]) for name in one["names"]]
    assert 100 < np.mean(places) < 300


def test_an_index_stays_within_its_memory(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metricwatch.worker.reference_index.MOST_BYTES", 30 * 24 * 4)
    assert len(filled(rows, range(400)).statistics()["features"]) == 30


def test_one_image_has_no_usual_distance(rows: np.ndarray) -> None:
    index = ReferenceIndex(filled(rows, range(1)).statistics())
    assert (len(index), index.usual_distance) == (1, None)
    assert [len(each) for each in index.nearest(rows[:2], [b"\0" * 16] * 2, 3)] == [1, 1]


def test_what_is_not_finite_is_neither_found_nor_looked_for(rows: np.ndarray) -> None:
    rows[3, 5] = np.nan
    index = ReferenceIndex(filled(rows, range(6)).statistics())
    assert "0003.png" not in index.names
    assert [len(each) for each in index.nearest(rows[2:5], [b"\0" * 16] * 3, 3)] == [3, 0, 3]
    with pytest.raises(InputError, match="finite"):
        filled(rows, [3]).statistics()
