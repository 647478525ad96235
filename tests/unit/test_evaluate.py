"""One evaluation, in this process, on real photographs with the real small network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metricwatch import listing
from metricwatch.api import Batch
from metricwatch.errors import InputError, TemporaryError
from metricwatch.metrics.ssim import Ssim
from metricwatch.protocol import Configure, Evaluate, Heartbeat
from metricwatch.records import Evaluation, Score, ScoreState
from metricwatch.worker.evaluate import Evaluator
from metricwatch.worker.progress import Progress
from metricwatch.worker.samples import ChangedError
from tests.support.photos import crops, write_crops

FD = "fd_efficientnet_lite0"


class Bench:
    """An evaluator with its phases and log lines laid open, and a clock that moves when told."""

    def __init__(self, cache: Path | None = None, **configure: object) -> None:
        self.now = 0.0
        self.phases: list[str] = []
        self.lines: list[tuple[str, str, dict[str, str]]] = []
        self.evaluator = Evaluator(
            # A faster engine takes seconds to start: they are proved for themselves.
            Configure(**{"engine": "eager", "cache": str(cache) if cache else "", "batch_size": 5, **configure}),
            torch.device("cpu"),
            lambda level, event, /, **fields: self.lines.append((level, event, fields)),
            Progress(on_change=self._note),
            clock=lambda: self.now,
        )

    def _note(self, beat: Heartbeat) -> None:
        self.phases.append(beat.phase)

    def evaluate(self, path: Path, *metrics: str, **request: object) -> Evaluation:
        self.phases.clear()
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in request.items()}
        return self.evaluator.evaluate(Evaluate(job=1, path=str(path), metrics=metrics, **texts))

    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines]


def only(evaluation: Evaluation, key: str) -> Score:
    (score,) = (score for score in evaluation.scores if score.key == key)
    return score


def age(directory: Path) -> Path:
    """Make all files old enough for their listing to be believed."""
    for path in directory.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return directory


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "samples", 6, side=48, seed=3)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return age(write_crops(tmp_path / "reference", 7, side=48, seed=4))


# --- scores ------------------------------------------------------------------------------------------------


def test_scores_carry_their_provenance_and_their_series(samples: Path, reference: Path) -> None:
    bench = Bench()
    evaluation = bench.evaluate(samples, FD, "ssim", reference=reference, content=samples)
    distance, similarity = only(evaluation, FD), only(evaluation, "ssim")
    assert (distance.state, distance.images, evaluation.images) == (ScoreState.OK, 6, 6)
    assert distance.value is not None
    assert distance.value > 0
    assert distance.stderr is not None
    assert not distance.higher_is_better
    assert (similarity.value, similarity.higher_is_better) == (pytest.approx(1.0), True)
    assert distance.provenance.keys() == {
        *("extractor", "extractor_digest", "protocol", "precision", "engine", "reference_digest"),
        *("device", "torch", "metricwatch"),
    }
    assert distance.provenance["extractor_digest"] == "579344248a93e230"
    assert len(distance.series) == 12
    assert distance.series != similarity.series
    assert evaluation.skipped == ()


def test_the_series_depends_on_the_content_of_the_reference_and_on_nothing_of_the_sample(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    bench = Bench()
    first = only(bench.evaluate(samples, FD, reference=reference), FD)
    moved = tmp_path / "elsewhere"
    shutil.copytree(reference, moved)
    other_samples = write_crops(tmp_path / "others", 5, side=40, seed=9)
    assert only(bench.evaluate(other_samples, FD, reference=moved), FD).series == first.series
    (moved / "0000.png").unlink()
    assert only(bench.evaluate(samples, FD, reference=moved), FD).series != first.series


def test_one_picture_can_be_scored(samples: Path) -> None:
    evaluation = Bench().evaluate(samples / "0001.png", "ssim", content=samples)
    assert (evaluation.images, only(evaluation, "ssim").images) == (1, 1)


def test_members_limit_the_snapshot_to_their_files(samples: Path) -> None:
    evaluation = Bench().evaluate(samples, "ssim", members=("0001.png", "0003.png"), content=samples)
    assert evaluation.images == 2


def test_pictures_of_many_sizes_and_modes_go_together(tmp_path: Path, reference: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for index, (side, mode) in enumerate([(30, "RGB"), (64, "L"), (30, "RGBA"), (300, "CMYK"), (64, "P"), (12, "1")]):
        picture = Image.fromarray(crops(1, side=side, seed=index)[0]).convert(mode)
        picture.save(mixed / f"{index}.{'jpg' if mode == 'CMYK' else 'png'}")
    evaluation = Bench().evaluate(mixed, FD, reference=reference)
    assert (evaluation.images, only(evaluation, FD).state) == (6, ScoreState.OK)


# --- what can be wrong with the samples --------------------------------------------------------------------


def test_bad_files_are_skipped_by_name_and_the_rest_is_scored(samples: Path) -> None:
    (samples / "0000.png").write_bytes(b"")
    (samples / "0001.png").write_bytes((samples / "0002.png").read_bytes()[:300])
    (samples / "0003.png").write_text("no picture")
    evaluation = Bench().evaluate(samples, "ssim", content=samples)
    skipped = {os.path.basename(entry.path): entry.reason for entry in evaluation.skipped}
    assert evaluation.images == 3
    assert skipped.keys() == {"0000.png", "0001.png", "0003.png"}
    assert skipped["0000.png"] == "empty file (0 bytes)"


def test_a_broken_picture_without_a_partner_is_told_once(samples: Path, tmp_path: Path) -> None:
    content = tmp_path / "content"
    shutil.copytree(samples, content)
    for name in ("0000.png", "0001.png"):
        (content / name).unlink()
    (content / "0002.png").write_bytes(b"broken")
    for name in ("0000.png", "0002.png"):
        (samples / name).write_bytes(b"")
    evaluation = Bench().evaluate(samples, "ssim", content=content)
    skipped = [(os.path.basename(entry.path), entry.reason) for entry in evaluation.skipped]
    assert [name for name, _ in skipped] == ["0000.png", "0001.png", "0002.png"]
    assert skipped[0][1] == skipped[2][1] == "empty file (0 bytes)"
    assert "no content partner" in skipped[1][1]


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no images in .*nothing: it is empty"):
        Bench().evaluate(tmp_path / "nothing", "ssim", content=tmp_path)


def test_a_directory_without_pictures_says_what_a_picture_is_called(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"no images in .*: 1 file\(s\), none named .*\.png"):
        Bench().evaluate(tmp_path, "ssim", content=tmp_path)


def test_a_directory_of_broken_pictures_names_the_first(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"none of 2 could be read; first: .*a\.png: not a picture"):
        Bench().evaluate(tmp_path, "ssim", content=tmp_path)


def test_a_directory_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot list .*gone: No such file"):
        Bench().evaluate(tmp_path / "gone", "ssim")


# --- the snapshot's digest ---------------------------------------------------------------------------------


def test_an_unchanged_snapshot_is_scored(samples: Path) -> None:
    digest = listing.fingerprint(listing.images(listing.scan(str(samples))))
    assert Bench().evaluate(samples, "ssim", content=samples, digest=digest).images == 6


def test_files_that_are_no_pictures_are_no_part_of_the_snapshot(samples: Path) -> None:
    digest = listing.fingerprint(listing.images(listing.scan(str(samples))))
    (samples / ".done").touch()
    (samples / "prompts.json").write_text("[]")
    assert Bench().evaluate(samples, "ssim", content=samples, digest=digest).images == 6


def test_members_have_a_digest_of_their_own(samples: Path) -> None:
    members = ("0001.png", "0002.png")
    digest = listing.fingerprint(entry for entry in listing.scan(str(samples)) if entry.name in members)
    bench = Bench()
    (samples / "0005.png").unlink()
    assert bench.evaluate(samples, "ssim", content=samples, members=members, digest=digest).images == 2
    (samples / "0002.png").unlink()
    with pytest.raises(ChangedError):
        bench.evaluate(samples, "ssim", content=samples, members=members, digest=digest)


@pytest.mark.parametrize("what", ["added", "removed", "rewritten", "gone"])
def test_a_snapshot_that_changed_before_is_not_scored(samples: Path, what: str) -> None:
    digest = listing.fingerprint(listing.images(listing.scan(str(samples))))
    if what == "added":
        Image.fromarray(crops(1)[0]).save(samples / "late.png")
    elif what == "removed":
        (samples / "0000.png").unlink()
    elif what == "gone":
        shutil.rmtree(samples)
    else:
        os.utime(samples / "0000.png", (1, 1))
    with pytest.raises(ChangedError):
        Bench().evaluate(samples, "ssim", content=samples.parent, digest=digest)


def test_a_snapshot_that_changes_while_it_is_read_is_not_scored(samples: Path) -> None:
    digest = listing.fingerprint(listing.images(listing.scan(str(samples))))
    bench = Bench()
    bench._note = lambda beat: (samples / "0005.png").unlink(missing_ok=True) if beat.phase == "scoring" else None
    bench.evaluator._progress._on_change = bench._note
    with pytest.raises(ChangedError, match="while it was being scored"):
        bench.evaluate(samples, "ssim", content=samples, digest=digest)


# --- metrics that cannot be computed -----------------------------------------------------------------------


def test_a_failing_metric_leaves_the_others_alone(samples: Path, tmp_path: Path) -> None:
    bench = Bench(weights={"inception-v3": str(tmp_path / "gone.pth")})
    evaluation = bench.evaluate(samples, "fid", "ssim", "nonsense", reference=samples, content=samples)
    assert only(evaluation, "ssim").state is ScoreState.OK
    fid, nonsense = only(evaluation, "fid"), only(evaluation, "nonsense")
    assert (fid.state, fid.value) == (ScoreState.FAILED, None)
    assert "no weights at" in fid.detail
    assert "unknown metric 'nonsense'" in nonsense.detail
    told = [fields for _, event, fields in bench.lines if event == "metric failed"]
    assert sorted(fields["metric"] for fields in told) == ["fid", "nonsense"]
    assert not any("traceback" in fields for fields in told)


def test_when_every_metric_fails_there_is_no_evaluation(samples: Path, tmp_path: Path) -> None:
    bench = Bench(weights={"inception-v3": str(tmp_path / "gone.pth")})
    with pytest.raises(InputError) as caught:
        bench.evaluate(samples, "fid", reference=samples)
    assert str(caught.value).startswith(f"inception-v3: no weights at {tmp_path / 'gone.pth'}")


def test_no_metric_is_an_error(samples: Path) -> None:
    with pytest.raises(InputError, match="no metric"):
        Bench().evaluate(samples)


def test_a_metric_without_its_reference_has_a_named_state(samples: Path) -> None:
    evaluation = Bench().evaluate(samples, FD, "ssim", content=samples)
    assert only(evaluation, FD).state is ScoreState.NO_REFERENCE
    assert only(evaluation, "ssim").state is ScoreState.OK


def test_one_image_is_too_few_for_a_distance(samples: Path, reference: Path) -> None:
    score = only(Bench().evaluate(samples, FD, members=("0000.png",), reference=reference), FD)
    assert (score.state, score.value, score.images) == (ScoreState.TOO_FEW_IMAGES, None, 1)


# --- partners ----------------------------------------------------------------------------------------------


def test_an_image_without_partner_is_left_out_of_that_metric_only(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    for index in (0, 1, 2):
        shutil.copy(samples / f"{index:04d}.png", content)
    for suffix in ("jpg", "bmp"):
        Image.open(samples / "0003.png").save(content / f"0003.{suffix}")
    (content / "0004.png").write_bytes(b"broken")
    evaluation = Bench().evaluate(samples, FD, "ssim", reference=reference, content=content)
    assert (only(evaluation, FD).images, only(evaluation, "ssim").images) == (6, 3)
    reasons = {os.path.basename(entry.path): entry.reason for entry in evaluation.skipped}
    assert reasons["0003.png"] == f"2 content partners named 0003.* in {content}: 0003.bmp, 0003.jpg"
    assert reasons["0004.png"].startswith(f"its content partner {content / '0004.png'} is unusable: not a picture")
    assert reasons["0005.png"] == f"no content partner named 0005.* in {content}"


def test_no_partner_at_all_is_a_named_state(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    Image.fromarray(crops(1)[0]).save(tmp_path / "content" / "other.png")
    evaluation = Bench().evaluate(samples, "ssim", content=tmp_path / "content")
    score = only(evaluation, "ssim")
    assert (score.state, score.value) == (ScoreState.NO_PAIRS, None)
    assert len(evaluation.skipped) == 6


def test_no_content_directory_is_a_named_state(samples: Path) -> None:
    score = only(Bench().evaluate(samples, "ssim"), "ssim")
    assert score.state is ScoreState.NO_PAIRS
    assert "no content directory was given" in score.detail


def test_a_content_directory_that_is_not_there_fails_its_metric(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot list the content directory"):
        Bench().evaluate(samples, "ssim", content=tmp_path / "gone")


# --- references --------------------------------------------------------------------------------------------


def reads(bench: Bench) -> bool:
    return "reading the reference" in bench.phases


def hashes(bench: Bench) -> bool:
    return "hashing the reference" in bench.phases


def test_a_reference_is_read_once_even_by_later_workers(samples: Path, reference: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    first = only(bench.evaluate(samples, FD, reference=reference), FD)
    assert reads(bench)
    again = only(bench.evaluate(samples, FD, reference=reference), FD)
    assert not reads(bench)
    later = Bench(tmp_path / "cache")
    third = only(later.evaluate(samples, FD, reference=reference), FD)
    assert not reads(later)
    assert not hashes(later)
    assert first.value == again.value == third.value


def test_a_changed_reference_is_never_silently_reused(samples: Path, reference: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    first = only(bench.evaluate(samples, FD, reference=reference), FD)
    Image.fromarray(crops(1, side=48, seed=77)[0]).save(reference / "0000.png")
    changed = only(bench.evaluate(samples, FD, reference=reference), FD)
    assert reads(bench)
    assert changed.value != first.value
    assert changed.provenance["reference_digest"] != first.provenance["reference_digest"]


def test_a_reference_that_was_only_touched_is_hashed_but_not_read_again(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "cache")
    first = only(bench.evaluate(samples, FD, reference=reference), FD)
    os.utime(reference / "0000.png", (1_600_000_000, 1_600_000_000))
    assert only(bench.evaluate(samples, FD, reference=reference), FD).series == first.series
    assert hashes(bench)
    assert not reads(bench)


def test_a_damaged_cache_file_is_noticed_and_computed_anew(samples: Path, reference: Path, tmp_path: Path) -> None:
    first = only(Bench(tmp_path / "cache").evaluate(samples, FD, reference=reference), FD)
    (kept,) = (tmp_path / "cache" / "references").glob("moments-efficientnet-lite0-*.npz")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 0xFF
    kept.write_bytes(data)
    bench = Bench(tmp_path / "cache")
    assert only(bench.evaluate(samples, FD, reference=reference), FD).value == pytest.approx(first.value)
    assert "kept reference statistics are damaged: computing them anew" in bench.events()
    kept.write_bytes(data[:1000])
    bench = Bench(tmp_path / "cache")
    assert only(bench.evaluate(samples, FD, reference=reference), FD).value == pytest.approx(first.value)


def test_a_cache_that_cannot_be_written_costs_a_warning_only(samples: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    bench = Bench(tmp_path / "file")
    for _ in range(2):
        assert only(bench.evaluate(samples, FD, reference=reference), FD).state is ScoreState.OK
    warnings = [event.partition(" cannot be kept")[0] for event in bench.events() if "cannot be kept" in event]
    assert sorted(warnings) == ["features", "reference statistics"]
    assert not reads(bench)


def test_a_users_statistics_give_the_same_distance(samples: Path, reference: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    expected = only(bench.evaluate(samples, FD, reference=reference), FD).value
    (kept,) = (tmp_path / "cache" / "references").glob("moments-efficientnet-lite0-*.npz")
    with np.load(kept) as arrays:
        np.savez(tmp_path / "own.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    found = only(bench.evaluate(samples, FD, reference=tmp_path / "own.npz"), FD)
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_unusable_references_say_why(samples: Path, tmp_path: Path) -> None:
    bench = Bench()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    np.savez(tmp_path / "other.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    os.mkfifo(tmp_path / "pipe.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.eye(3))
    single = write_crops(tmp_path / "single", 1, side=32)
    (single / "bad.png").write_bytes(b"bad")
    for name, message in (
        ("gone", "does not exist"),
        ("empty", "no images in the reference directory"),
        ("notes.txt", "neither a directory of images nor an .npz file"),
        ("broken.npz", "is not a readable .npz file"),
        # Opening a pipe would wait for a writer for ever.
        ("pipe.npz", r"pipe\.npz is not a regular file"),
        ("array.npz", r"array\.npz holds a single array .* numpy\.savez"),
        ("other.npz", r"other\.npz: .*'mu' has shape \(2048,\), but efficientnet-lite0 features need \(1280,\)"),
        ("single", r"at least 2 readable images, got 1 \(1 left out; first: .*bad\.png"),
    ):
        with pytest.raises(InputError, match=message):
            bench.evaluate(samples, FD, reference=tmp_path / name)


def test_a_broken_reference_image_is_left_out_and_said(samples: Path, reference: Path) -> None:
    (reference / "0003.png").write_bytes(b"broken")
    bench = Bench()
    assert only(bench.evaluate(samples, FD, reference=reference), FD).state is ScoreState.OK
    assert ("warning", "reference image left out") in [(level, event) for level, event, _ in bench.lines]


def test_a_big_reference_is_looked_at_every_half_minute_at_most(
    samples: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metricwatch.worker.references._BIG", 3)
    bench = Bench(tmp_path / "cache")
    first = only(bench.evaluate(samples, FD, reference=reference), FD)
    (reference / "0000.png").unlink()
    bench.now = 29.0
    assert only(bench.evaluate(samples, FD, reference=reference), FD).series == first.series
    bench.now = 31.0
    assert only(bench.evaluate(samples, FD, reference=reference), FD).series != first.series


def test_a_pipe_in_the_place_of_a_reference_image_is_noticed(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big references are looked at now and then only: what was a picture may be a pipe by now."""
    monkeypatch.setattr("metricwatch.worker.references._BIG", 3)
    bench = Bench()
    (reference / "0001.png").write_bytes(b"so young that it is hashed each time")
    bench.evaluate(samples, FD, reference=reference)
    (reference / "0000.png").unlink()
    os.mkfifo(reference / "0000.png")
    with pytest.raises(TemporaryError, match="changed while it was being read"):
        bench.evaluate(samples, FD, reference=reference)
    assert only(bench.evaluate(samples, FD, reference=reference), FD).state is ScoreState.OK


# --- memory ------------------------------------------------------------------------------------------------


def test_partners_count_as_pixels_of_a_batch(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images with large partners: a batch ends by what both take together."""
    monkeypatch.setattr("metricwatch.worker.pipeline._BATCH_PIXELS", 40_000)
    content = write_crops(tmp_path / "content", 6, side=150)
    sizes: list[int] = []
    measure = Ssim.measure

    def noted(self: Ssim, batch: Batch) -> list[list[float]]:
        sizes.append(len(batch.names))
        return measure(self, batch)

    monkeypatch.setattr(Ssim, "measure", noted)
    assert only(Bench().evaluate(samples, "ssim", content=content), "ssim").images == 6
    assert sizes == [1] * 6


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU with room for two images at a time gives the same score."""
    from metricwatch.worker.engines import EagerEngine

    expected = only(Bench().evaluate(samples, FD, reference=reference), FD).value
    roomy = EagerEngine.features
    sizes: list[int] = []

    def cramped(self: EagerEngine, images: list[torch.Tensor]) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return roomy(self, images)

    monkeypatch.setattr(EagerEngine, "features", cramped)
    found = only(Bench().evaluate(samples, FD, reference=reference), FD)
    assert found.images == 6
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert max(sizes) == 5
