"""What an evaluation leaves to be looked at: the same samples at each step, their partners, and where they differ."""

from __future__ import annotations

import os
import random
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metricwatch import listing
from metricwatch.api import Batch
from metricwatch.metrics.ssim import Ssim
from metricwatch.protocol import Configure, Evaluate, Looking, Result, Sampling, decode, encode
from metricwatch.records import Evaluation, Look
from metricwatch.worker.evaluate import Evaluator
from metricwatch.worker.look_choice import choose, shown_names
from metricwatch.worker.plan import Item
from metricwatch.worker.progress import Progress
from metricwatch.worker.samples import SampleSet
from tests.support.photos import crops, write_crops
from tests.support.samplers import install_painter, write_checkpoint

FLIP = {"needs": ["content"], "random": False}


class Bench:
    """An evaluator whose log lines and pictures lie open."""

    def __init__(self, folder: Path, **configure: object) -> None:
        self.folder = folder
        self.looks = folder / "looks"
        self.lines: list[tuple[str, str, dict[str, str]]] = []
        self.evaluator = Evaluator(
            Configure(cache=str(folder / "cache"), batch_size=5, engine="eager", **configure),
            torch.device("cpu"),
            lambda level, event, /, **fields: self.lines.append((level, event, fields)),
            Progress(),
        )

    def evaluate(
        self, path: Path, *metrics: str, look: dict[str, object] | None = None, **request: object
    ) -> Evaluation:
        looking = Looking(**{"folder": str(self.looks), "neighbours": 0, **(look or {})})
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in request.items()}
        return self.evaluator.evaluate(Evaluate(job=1, path=str(path), metrics=metrics, look=looking, **texts))

    def look(self, path: Path, *metrics: str, look: dict[str, object] | None = None, **request: object) -> Look:
        found = self.evaluate(path, *metrics, look=look, **request).look
        assert found is not None, self.reasons()
        return found

    def reasons(self) -> list[str]:
        return [fields["reason"] for _, event, fields in self.lines if event == "look failed"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Six samples, each a blurred copy of its content."""
    return write_crops(tmp_path / "samples", 6, side=48, seed=1, blur=1.0)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "content", 6, side=48, seed=1)


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def names(look: Look) -> list[str]:
    return [sample.name for sample in look.samples]


# --- which samples -----------------------------------------------------------------------------------------


def chosen(files: list[str], *, step: int = 500, count: int = 16, members: bool = False) -> list[str]:
    look = Looking(folder="looks", samples=count)
    request = Evaluate(
        job=1, path="no such folder", step=step, metrics=("ssim",), look=look, members=tuple(files) if members else None
    )
    items = [Item(name=os.path.splitext(file)[0], path=f"no such folder/{file}") for file in files]
    source = SampleSet(directory="no such folder", names=tuple(files))
    return [each.name for each in choose(request, items, source)]


def test_all_of_a_few_samples_are_shown_in_the_order_of_their_numbers() -> None:
    assert chosen([f"sample_{number}.png" for number in (10, 2, 33, 1)]) == [
        *("sample_1", "sample_2", "sample_10", "sample_33"),
    ]


def test_the_choice_does_not_depend_on_the_order_of_files() -> None:
    files = [f"{number}.png" for number in range(100)]
    expected = chosen(files)
    assert len(expected) == 16
    random.Random(0).shuffle(files)
    assert chosen(files) == expected
    assert expected != [f"{number}" for number in range(16)]


def test_a_few_more_files_change_few_of_the_chosen() -> None:
    files = [f"{number:04d}.png" for number in range(100)]
    before = set(chosen(files))
    more = set(chosen([*files, *(f"{number:04d}.png" for number in range(100, 105))]))
    fewer = set(chosen(files[5:]))
    assert len(before & more) >= 14
    assert before - {f"{number:04d}" for number in range(5)} <= fewer


def test_flat_files_have_the_same_names_at_every_step() -> None:
    first = chosen([f"{1000:06d}_{number:02d}.png" for number in range(40)], step=1000, members=True)
    later = chosen([f"{2500:06d}_{number:02d}.png" for number in range(40)], step=2500, members=True)
    assert first == later
    assert set(first) < {f"{number:02d}" for number in range(40)}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("001000_03.png", "03"),
        ("step1000_sample3.png", "step_sample3"),
        ("sample3-step-1000.png", "sample3-step"),
        ("cat.1000.dog.png", "cat.dog"),
        ("1000_1000.png", "1000"),
        ("step_21000_1000_7.png", "step_21000_7"),
        ("1000.png", "sample"),
        ("0999_3.png", "0999_3"),
        ("it\N{SUPERSCRIPT TWO}_1000.png", "it\N{SUPERSCRIPT TWO}"),
    ],
)
def test_the_step_is_left_out_of_a_file_s_name(file: str, name: str) -> None:
    assert chosen([file], step=1000, members=True) == [name]


def test_the_step_is_left_out_in_a_folder_for_each_step_where_all_names_hold_it() -> None:
    assert chosen(["it500_1.png", "it500_2.png"], step=500) == ["it_1", "it_2"]
    assert chosen(["500.png", "501.png"], step=500) == ["500", "501"]
    assert chosen(["1_0.png", "1_1.png"], step=1) == ["1_0", "1_1"]


def test_names_are_unique_and_printable() -> None:
    items = [Item(name="a", path=path) for path in ("d/a.jpg", "d/a.png", "d/b\n\udcff.png")]
    found = shown_names(Evaluate(job=1, path="d"), items)
    assert found == ["a", "a~", "b\\n\\udcff"]


# --- thumbnails --------------------------------------------------------------------------------------------


def test_the_small_pictures_are_the_samples(bench: Bench, samples: Path, content: Path) -> None:
    look = bench.look(samples, "ssim", content=content, look={"samples": 4})
    assert len(look.samples) == 4
    for sample in look.samples:
        assert Path(sample.path).parent == bench.looks
        np.testing.assert_array_equal(pixels(sample.path), pixels(samples / f"{sample.name}.png"))
    assert bench.lines == []


def test_large_pictures_become_small_ones_of_their_shape(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    picture = np.ascontiguousarray(crops(1, side=200)[0][:100])
    Image.fromarray(picture).save(folder / "wide.png")
    Image.fromarray(np.tile(np.uint8([[0, 255], [255, 0]]), (80, 40))[..., None].repeat(3, 2)).save(folder / "fine.png")
    look = bench.look(folder, "ssim", content=folder, look={"side": 32})
    fine, wide = (pixels(sample.path) for sample in look.samples)
    assert wide.shape == (16, 32, 3)
    expected = np.asarray(Image.fromarray(picture).resize((32, 16), Image.Resampling.BOX)).astype(int)
    assert np.abs(wide - expected).mean() < 8
    assert fine.shape == (32, 16, 3)
    # A chequerboard of single pixels is grey: whatever picks pixels shows black and white.
    assert np.abs(fine.astype(int) - 127).max() < 12


def test_a_picture_that_cannot_be_read_is_absent(bench: Bench, samples: Path, content: Path) -> None:
    (samples / "0002.png").write_bytes(b"broken")
    look = bench.look(samples, "ssim", content=content)
    assert names(look) == ["0000", "0001", "0003", "0004", "0005"]
    assert bench.reasons() == []


def test_files_of_one_stem_are_both_seen(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    for pixel, suffix in zip(crops(2, side=40), ("png", "bmp"), strict=True):
        Image.fromarray(pixel).save(folder / f"a.{suffix}")
    look = bench.look(folder, "ssim", content=write_crops(tmp_path / "others", 1, side=40), look={"compared": 0})
    (tmp_path / "others" / "0000.png").rename(tmp_path / "others" / "a.png")
    look = bench.look(folder, "ssim", content=tmp_path / "others", look={"compared": 0})
    shown = [pixels(sample.path) for sample in look.samples]
    np.testing.assert_array_equal(shown[0], pixels(folder / "a.bmp"))
    np.testing.assert_array_equal(shown[1], pixels(folder / "a.png"))


def test_what_the_cache_knew_is_seen_all_the_same(bench: Bench, samples: Path, content: Path) -> None:
    first = bench.evaluate(samples, "ssim", content=content)
    again = bench.evaluate(samples, "ssim", content=content, look={"folder": str(bench.folder / "again")})
    assert again.work["cached"] == 6
    assert first.look is not None
    assert again.look is not None
    assert names(again.look) == names(first.look)
    for one, other in zip(first.look.compared, again.look.compared, strict=True):
        assert one.heat_mean == other.heat_mean
        for kind in ("image", "content", "heat"):
            assert Path(getattr(one, kind)).read_bytes() == Path(getattr(other, kind)).read_bytes()


def test_no_picture_is_decoded_twice_for_it(bench: Bench, samples: Path, content: Path) -> None:
    seen = bench.evaluate(samples, "ssim", content=content)
    assert seen.work["decodes"] == 12
    unseen = Bench(bench.folder / "other").evaluator.evaluate(
        Evaluate(job=1, path=str(samples), metrics=("ssim",), content=str(content))
    )
    assert seen.work["decodes"] == unseen.work["decodes"]


# --- partners ----------------------------------------------------------------------------------------------


def test_partners_are_shown_that_no_metric_needs(bench: Bench, samples: Path, content: Path, tmp_path: Path) -> None:
    style = tmp_path / "style"
    style.mkdir()
    for number in range(6):
        Image.fromarray(crops(1, side=64, seed=number)[0][:, :30]).save(style / f"{number:04d}.jpg", quality=95)
    look = bench.look(samples, "ssim", content=content, style=style, look={"compared": 2})
    assert [row.name for row in look.compared] == ["0000", "0001"]
    for row in look.compared:
        np.testing.assert_array_equal(pixels(row.content), pixels(content / f"{row.name}.png"))
        assert pixels(row.style).shape == (48, 48, 3)
    assert pixels(look.compared[0].style).mean() != pytest.approx(pixels(look.compared[1].style).mean(), abs=0.1)


def test_without_any_pairs_the_samples_are_alone(bench: Bench, samples: Path) -> None:
    look = bench.look(samples, "fd_efficientnet_lite0", reference=samples, look={"compared": 2})
    assert len(look.samples) == 6
    assert [(row.content, row.style, row.heat, row.heat_mean) for row in look.compared] == [("", "", "", None)] * 2
    assert (look.heat_of, look.heat_most) == ("", 1.0)


def test_partners_come_from_the_manifest_beside_the_samples(bench: Bench, samples: Path, content: Path) -> None:
    lines = [f'{{"image": "{number:04d}.png", "content": "{content}/{5 - number:04d}.png"}}' for number in range(6)]
    (samples / listing.MANIFEST).write_text("\n".join(lines))
    look = bench.look(samples, "ssim", content=content, look={"compared": 1})
    np.testing.assert_array_equal(pixels(look.compared[0].content), pixels(content / "0005.png"))


def test_a_broken_partner_leaves_its_place_empty(bench: Bench, samples: Path, content: Path, tmp_path: Path) -> None:
    style = shutil.copytree(content, tmp_path / "style")
    (style / "0001.png").write_bytes(b"broken")
    look = bench.look(samples, "ssim", content=content, style=style, look={"compared": 3})
    assert [bool(row.style) for row in look.compared] == [True, False, True]
    assert all(row.content and row.heat for row in look.compared)
    (reason,) = bench.reasons()
    assert "its style partner" in reason


def test_a_style_folder_that_is_not_there_costs_nothing(bench: Bench, samples: Path, content: Path) -> None:
    look = bench.look(samples, "ssim", content=content, style=bench.folder / "nowhere")
    assert all(row.content and not row.style for row in look.compared)


# --- heat --------------------------------------------------------------------------------------------------


def test_the_heat_is_the_map_of_the_metric(bench: Bench, samples: Path, content: Path) -> None:
    look = bench.look(samples, "ssim", content=content, look={"compared": 1})
    (row,) = look.compared
    one, other = (
        torch.from_numpy(pixels(folder / "0000.png").copy()).permute(2, 0, 1) for folder in (samples, content)
    )
    (values,) = Ssim().maps(Batch(names=("0",), images=(one,), content=(other,)))
    assert (look.heat_of, look.heat_most) == ("ssim", 1.0)
    assert row.heat_mean == pytest.approx(float(values.mean()), abs=1e-6)
    np.testing.assert_array_equal(pixels(row.heat), np.round(255 * np.minimum(1, values.numpy())))


def test_the_heat_shrinks_with_its_picture(bench: Bench, samples: Path, content: Path) -> None:
    look = bench.look(samples, "ssim", content=content, look={"side": 24})
    assert {pixels(path).shape[:2] for row in look.compared for path in (row.image, row.content, row.heat)} == {
        (24, 24)
    }
    assert look.compared[0].heat_mean == pytest.approx(pixels(look.compared[0].heat).mean() / 255, abs=0.02)


def test_ssim_is_drawn_where_no_metric_has_maps(bench: Bench, samples: Path, content: Path) -> None:
    look = bench.look(samples, "fd_efficientnet_lite0", reference=content, content=content)
    assert look.heat_of == "ssim"
    assert all(row.heat for row in look.compared)


def test_what_is_seen_is_preferred_to_what_is_computed(bench: Bench, samples: Path, content: Path) -> None:
    request = {"content": content, "look": {"compared": 2}}
    evaluation = bench.evaluate(samples, "ssim", "st_lpips", **request)
    assert evaluation.look is not None
    assert evaluation.look.heat_of == "st_lpips"
    # Its layers were at hand.
    assert evaluation.work["passes st-vgg16"] == 12
    score = next(score for score in evaluation.scores if score.key == "st_lpips")
    assert score.value is not None
    means = [row.heat_mean for row in evaluation.look.compared]
    assert all(mean == pytest.approx(score.value, rel=0.6) for mean in means)

    again = bench.evaluate(samples, "ssim", "st_lpips", **request)
    assert again.look is not None
    assert [row.heat_mean for row in again.look.compared] == pytest.approx(means, rel=1e-5)
    assert again.work["passes st-vgg16"] == 4

    named = bench.look(samples, "ssim", "st_lpips", content=content, look={"heat": "ssim"})
    assert named.heat_of == "ssim"


@pytest.mark.parametrize(
    ("heat", "reason"),
    [("content_loss", "has no maps to draw"), ("no_such_metric", "no_such_metric"), ("fid", "has no maps to draw")],
)
def test_a_metric_without_maps_costs_a_line_and_the_heat(
    heat: str, reason: str, bench: Bench, samples: Path, content: Path
) -> None:
    look = bench.look(samples, "ssim", content=content, look={"heat": heat})
    assert (look.heat_of, look.compared[0].heat, bool(look.compared[0].content)) == ("", "", True)
    assert [reason in line for line in bench.reasons()] == [True]


def test_maps_that_fail_cost_a_line_and_no_score(
    bench: Bench, samples: Path, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ssim, "maps", lambda _, batch: [torch.full((4, 4), float("nan"))] * len(batch))
    evaluation = bench.evaluate(samples, "ssim", content=content)
    assert evaluation.scores[0].value is not None
    assert evaluation.look is not None
    assert [row.heat for row in evaluation.look.compared] == [""] * 4
    assert "that is no picture" in bench.reasons()[0]


# --- scores ------------------------------------------------------------------------------------------------


def test_looking_changes_no_score(tmp_path: Path, samples: Path, content: Path) -> None:
    metrics = ("ssim", "st_lpips", "fd_efficientnet_lite0")
    (samples / "0003.png").write_bytes(b"broken")
    small = Image.fromarray(crops(1, side=10)[0])
    small.save(samples / "0006.png")
    small.save(content / "0006.png")
    request = Evaluate(
        job=1, path=str(samples), metrics=metrics, content=str(content), style=str(content), reference=str(content)
    )
    looking = Looking(folder=str(tmp_path / "looks"), neighbours=0)
    for _ in ("anew", "from the cache"):
        without = Bench(tmp_path / "one").evaluator.evaluate(request)
        looked = Bench(tmp_path / "other").evaluator.evaluate(replace(request, look=looking))
        assert looked.look is not None
        assert without.look is None
        assert looked.scores == without.scores
        assert (looked.skipped, looked.images, looked.provenance) == (
            without.skipped,
            without.images,
            without.provenance,
        )


@pytest.mark.parametrize("fault", ["a file is in the way", "the disk is full"])
def test_where_nothing_can_be_written_there_are_scores_and_no_look(
    fault: str, bench: Bench, samples: Path, content: Path
) -> None:
    if fault == "a file is in the way":
        bench.looks.write_text("in the way")
    else:
        bench.looks.mkdir()
        # The third of them meets a device that is always full.
        (bench.looks / "0002.png").symlink_to("/dev/full")
    evaluation = bench.evaluate(samples, "ssim", content=content)
    assert evaluation.scores[0].value is not None
    assert evaluation.look is None
    (reason,) = bench.reasons()
    assert reason.startswith("pictures cannot be written into")
    if fault == "the disk is full":
        assert "No space left" in reason
        assert list(bench.looks.iterdir()) == []


def test_nobody_asked(bench: Bench, samples: Path, content: Path) -> None:
    request = Evaluate(job=1, path=str(samples), metrics=("ssim",), content=str(content))
    assert bench.evaluator.evaluate(request).look is None
    assert not bench.looks.exists()
    assert bench.evaluate(samples, "ssim", content=content, look={"samples": 0}).look is None


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_painter(tmp_path / "site", monkeypatch)
    monkeypatch.delitem(sys.modules, "plugin_painter", raising=False)


def sampled(bench: Bench, checkpoint: Path, *metrics: str, options: object = None, **request: object) -> Evaluation:
    return bench.evaluate(
        checkpoint.parent,
        *metrics,
        step=100,
        members=(checkpoint.name,),
        sampling=Sampling(
            use="painter",
            options=options or {},
            samples=9,
            keep=9,
            kept=str(bench.folder / "kept"),
            batch_size=4,
            pins=str(bench.folder / "pins"),
        ),
        **request,
    )


@pytest.mark.usefixtures("painter")
def test_samples_of_a_checkpoint_are_the_first_of_its_plan(bench: Bench, content: Path) -> None:
    checkpoint = write_checkpoint(bench.folder / "checkpoints" / "step_000100.pt", 0.1)
    evaluation = sampled(bench, checkpoint, "ssim", options=FLIP, content=content, look={"samples": 3, "compared": 2})
    look = evaluation.look
    assert look is not None
    assert names(look) == ["0000", "0001", "0002"]
    for sample, kept in zip(look.samples, evaluation.kept, strict=False):
        assert sample.name == kept.name
        np.testing.assert_array_equal(pixels(sample.path), pixels(kept.path))
    for row in look.compared:
        np.testing.assert_array_equal(pixels(row.content), pixels(content / f"{row.name}.png"))
        assert row.heat
    assert look.heat_of == "ssim"


@pytest.mark.usefixtures("painter")
def test_samples_are_compared_with_what_only_the_sampler_read(bench: Bench, content: Path) -> None:
    """No metric looks at their content: it is there, and so is the sample, which no file holds."""
    checkpoint = write_checkpoint(bench.folder / "checkpoints" / "step_000100.pt", 0.1)
    request = {"content": content, "style": content, "reference": content, "look": {"compared": 2}}
    evaluation = sampled(bench, checkpoint, "fd_efficientnet_lite0", options=FLIP, **request)
    look = evaluation.look
    assert look is not None
    assert look.heat_of == "ssim"
    assert len(look.compared) == 2
    assert all(row.content and row.style and row.heat for row in look.compared)


@pytest.mark.usefixtures("painter")
def test_samples_without_partners_and_broken_ones(bench: Bench, content: Path) -> None:
    checkpoint = write_checkpoint(bench.folder / "checkpoints" / "step_000100.pt", 0.4, broken=["1"])
    look = sampled(bench, checkpoint, "fd_efficientnet_lite0", reference=content, look={"samples": 4}).look
    assert look is not None
    assert names(look) == ["0", "2", "3"]
    assert bench.reasons() == []


# --- the way back ------------------------------------------------------------------------------------------


def test_a_look_survives_the_pipe(bench: Bench, samples: Path, content: Path) -> None:
    evaluation = bench.evaluate(samples, "ssim", content=content)
    result = decode(encode(Result(job=1, evaluation=evaluation)))
    assert isinstance(result, Result)
    assert result.evaluation.look == evaluation.look
    request = Evaluate(job=1, path="p", look=Looking(folder="f", heat="ssim"))
    assert asdict(decode(encode(request))) == asdict(request)
