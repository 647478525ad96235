"""From a checkpoint to scores: the samples are those a folder of PNG files would hold, and faults are told apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metricwatch import listing
from metricwatch.errors import ConfigError, InputError, TemporaryError
from metricwatch.protocol import Configure, Evaluate, Sampling
from metricwatch.records import Evaluation, Score, ScoreState
from metricwatch.worker import pictures
from metricwatch.worker.device_state import is_lost
from metricwatch.worker.evaluate import Evaluator
from metricwatch.worker.images import decode
from metricwatch.worker.progress import Progress
from metricwatch.worker.samples import ChangedError
from tests.support.photos import write_crops
from tests.support.samplers import install_painter, write_checkpoint

FD = "fd_efficientnet_lite0"
FLIP = {"needs": ["content"], "random": False}


@pytest.fixture(autouse=True)
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_painter(tmp_path / "site", monkeypatch)
    monkeypatch.delitem(sys.modules, "plugin_painter", raising=False)


class Bench:
    def __init__(self, folder: Path, batch_size: int = 5) -> None:
        self.folder = folder
        self.lines: list[tuple[str, str, dict[str, str]]] = []
        self.evaluator = Evaluator(
            Configure(cache=str(folder / "cache"), batch_size=batch_size, engine="eager"),
            torch.device("cpu"),
            lambda level, event, /, **fields: self.lines.append((level, event, fields)),
            Progress(),
        )

    def request(
        self,
        checkpoint: Path,
        *metrics: str,
        options: dict[str, object] | None = None,
        samples: int | None = None,
        keep: int = 0,
        batch_size: int | None = None,
        seed: int = 0,
        **request: object,
    ) -> Evaluate:
        return Evaluate(
            job=1,
            path=str(checkpoint.parent),
            step=100,
            members=(checkpoint.name,),
            digest=listing.fingerprint(listing.entries(str(checkpoint.parent), [checkpoint.name])),
            metrics=metrics,
            sampling=Sampling(
                use="painter",
                options=options or {},
                samples=samples,
                seed=seed,
                keep=keep,
                kept=str(self.folder / "kept"),
                batch_size=batch_size,
                pins=str(self.folder / "pins"),
            ),
            **{key: str(value) if isinstance(value, Path) else value for key, value in request.items()},
        )

    def score(self, checkpoint: Path, *metrics: str, **request: object) -> Evaluation:
        return self.evaluator.evaluate(self.request(checkpoint, *metrics, **request))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "content", 7, side=48, seed=1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.1)


def only(evaluation: Evaluation, key: str) -> Score:
    (score,) = (score for score in evaluation.scores if score.key == key)
    return score


# --- the same as files -------------------------------------------------------------------------------------


def test_scores_equal_those_of_the_same_samples_saved_as_png(bench: Bench, checkpoint: Path, content: Path) -> None:
    reference = write_crops(bench.folder / "reference", 6, side=48, seed=2)
    made = bench.score(checkpoint, "ssim", FD, options=FLIP, keep=64, content=content, reference=reference)
    saved = bench.folder / "saved"
    saved.mkdir()
    for kept in made.kept:
        Path(kept.path).rename(saved / Path(kept.path).name)

    files = bench.evaluator.evaluate(
        Evaluate(job=2, path=str(saved), metrics=("ssim", FD), content=str(content), reference=str(reference))
    )

    assert made.images == files.images == 7
    for key in ("ssim", FD):
        assert only(made, key).value == pytest.approx(only(files, key).value, rel=1e-6)
        assert only(made, key).stderr == pytest.approx(only(files, key).stderr, rel=1e-4)
    assert only(made, "ssim").provenance["pairs_digest"] == only(files, "ssim").provenance["pairs_digest"]


def test_another_checkpoint_is_asked_for_the_same_samples(bench: Bench, tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.3)
    second = write_checkpoint(tmp_path / "checkpoints" / "step_000200.pt", 0.5)
    bench.score(first, FD, samples=12)
    import plugin_painter

    bench.score(second, FD, samples=12)

    (sampler,) = bench.evaluator._samplers._made.values()
    names = [request.names for request in sampler.asked]
    seeds = [request.seeds for request in sampler.asked]
    assert names[:3] == names[3:]
    assert seeds[:3] == seeds[3:] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (10, 11)]
    assert plugin_painter.Painter.opened == plugin_painter.Painter.closed == 2


def test_the_division_into_batches_changes_no_sample(bench: Bench, checkpoint: Path) -> None:
    whole = bench.score(checkpoint, FD, samples=9, keep=9, batch_size=9)
    pictures = {kept.name: np.asarray(Image.open(kept.path)) for kept in whole.kept}

    single = bench.score(checkpoint, FD, samples=9, keep=9, batch_size=2)

    assert all(np.array_equal(np.asarray(Image.open(kept.path)), pictures[kept.name]) for kept in single.kept)


def test_a_sampler_that_draws_from_the_common_generator_is_repeatable_and_leaves_it_alone(
    bench: Bench, tmp_path: Path
) -> None:
    careless = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, careless=True)

    def kept() -> bytes:
        (one,) = bench.score(careless, FD, samples=6, keep=1).kept
        return Path(one.path).read_bytes()

    first = kept()  # and the networks, whose making draws numbers, are loaded
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    assert kept() == first
    assert torch.equal(torch.rand(1), expected)


def test_only_the_first_samples_are_kept_under_names_that_stay(bench: Bench, checkpoint: Path, content: Path) -> None:
    made = bench.score(checkpoint, "ssim", options=FLIP, keep=3, content=content)

    assert [kept.name for kept in made.kept] == ["0000", "0001", "0002"]
    assert [Path(kept.path).name for kept in made.kept] == ["0000.png", "0001.png", "0002.png"]


def test_each_partner_is_decoded_once_for_sampler_and_metrics_together(
    bench: Bench, checkpoint: Path, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(pictures, "decode", lambda *arguments: decoded.append(1) or decode(*arguments))

    made = bench.score(checkpoint, "ssim", "st_lpips", options=FLIP, content=content)

    assert made.images == 7
    assert len(decoded) == 7


def test_features_of_samples_do_not_fill_the_cache(bench: Bench, checkpoint: Path, content: Path) -> None:
    cache = bench.evaluator._cache
    kept: list[int] = []
    save = cache.save
    cache.save = lambda rows: (kept.append(len(rows)), save(rows))  # type: ignore[method-assign]

    bench.score(checkpoint, "ssim", FD, options=FLIP, content=content)

    assert sum(kept) == 0


def test_seconds_are_told_apart(bench: Bench, checkpoint: Path) -> None:
    phases = bench.score(checkpoint, FD, samples=3).phases

    assert set(phases) == {"load", "sample", "score"}
    assert all(seconds >= 0 for seconds in phases.values())


def test_scores_of_other_samples_are_not_compared(bench: Bench, checkpoint: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "checkpoints" / "step_000300.pt", 0.1, identity="another encoder")
    series = [
        only(bench.score(*request, FD, samples=3, **more), FD).series  # type: ignore[arg-type]
        for request, more in (
            ((checkpoint,), {}),
            ((checkpoint,), {"batch_size": 1}),
            ((checkpoint,), {"seed": 1}),
            ((checkpoint,), {"options": {"size": 40}}),
            ((other,), {}),
        )
    ]

    assert series[0] == series[1]
    assert len(set(series)) == 4


def test_scores_of_samples_made_from_other_partners_or_prompts_are_not_compared(
    bench: Bench, checkpoint: Path, content: Path
) -> None:
    reference = write_crops(bench.folder / "reference", 6, side=48, seed=2)
    prompted = {"needs": ["content", "prompt"], "random": False}
    asked = {"reference": reference, "content": content}

    def series(**more: object) -> str:
        return only(bench.score(checkpoint, FD, **{**asked, **more}), FD).series

    first = series(options=prompted, prompt="a cat")
    other_prompt = series(options=prompted, prompt="a dog")
    unprompted = series(options=FLIP, prompt="a cat")
    unread_prompt = series(options=FLIP, prompt="a dog")
    write_crops(content, 7, side=48, seed=5)
    other_content = series(options=prompted, prompt="a cat")

    assert len({first, other_prompt, other_content}) == 3
    assert unprompted == unread_prompt


# --- what may go wrong -------------------------------------------------------------------------------------


def test_a_full_gpu_halves_the_batch(bench: Bench, tmp_path: Path) -> None:
    tight = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, room=2)

    made = bench.score(tight, FD, samples=6)

    (sampler,) = bench.evaluator._samplers._made.values()
    assert made.images == 6
    assert [len(request) for request in sampler.asked] == [5, 2, 2, 1, 1]


@pytest.mark.parametrize("fault", [{"room": 0}, {"no_room_to_load": True}])
def test_no_room_at_all_is_waited_for_and_at_last_told(bench: Bench, tmp_path: Path, fault: dict[str, object]) -> None:
    tight = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, **fault)

    with pytest.raises(TemporaryError, match="there is no room"):
        bench.score(tight, FD, samples=6)
    with pytest.raises(InputError, match="there is no room"):
        bench.score(tight, FD, samples=6, patient=False)


def test_samples_that_are_not_finite_are_left_out_and_named(bench: Bench, tmp_path: Path) -> None:
    sick = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, broken=["2", "5"])

    made = bench.score(sick, FD, samples=8)

    assert made.images == 6
    assert [skipped.path for skipped in made.skipped] == ["sample 2", "sample 5"]
    assert "not finite" in made.skipped[0].reason


def test_a_model_that_gives_nothing_finite_is_an_evaluation_without_values(bench: Bench, tmp_path: Path) -> None:
    dead = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, all_broken=True)

    made = bench.score(dead, FD, "precision_efficientnet_lite0", samples=8)

    assert made.images == 0
    assert made.skipped == ()
    assert {score.state for score in made.scores if score.state is not ScoreState.NO_REFERENCE} <= {
        ScoreState.NON_FINITE
    }


def test_a_model_that_is_not_finite_says_so_in_every_metric_that_could_have_been_scored(
    bench: Bench, tmp_path: Path
) -> None:
    reference = write_crops(bench.folder / "reference", 6, side=48, seed=2)
    dead = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, all_broken=True)

    made = bench.score(dead, FD, samples=8, reference=reference)

    assert only(made, FD).state is ScoreState.NON_FINITE
    assert "none of the 8 samples is finite" in only(made, FD).detail


@pytest.mark.parametrize(
    ("gives", "reason"),
    [
        ("torch.zeros(n + 1, 3, 8, 8)", "was asked for 5 samples and gave 6"),
        ("torch.zeros(n, 4, 8, 8)", r"gave \(4, 8, 8\); a sample is a tensor"),
        ("torch.zeros(n, 3, 8, 8, dtype=torch.int64)", "gave torch.int64"),
        ("[None] * n", "gave NoneType; a sample is a tensor"),
        ("7", "asked for 5 samples and gave int"),
        ("torch.zeros(n, 3, 0, 8)", "gave 0 x 8 pixels"),
    ],
)
def test_what_no_sampler_may_give_is_told(bench: Bench, tmp_path: Path, gives: str, reason: str) -> None:
    odd = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, gives=gives)

    with pytest.raises(InputError, match=reason):
        bench.score(odd, FD, samples=5)


@pytest.mark.parametrize(
    ("gives", "pixel"),
    [
        ("torch.full((n, 1, 16, 16), 0.5)", 128),
        ("torch.full((n, 3, 16, 16), 1.7)", 255),
        ("torch.full((n, 3, 16, 16), -0.2)", 0),
        ("torch.full((n, 3, 16, 16), 9, dtype=torch.uint8)", 9),
        ("torch.full((n, 3, 16, 16), 0.25, dtype=torch.bfloat16)", 64),
    ],
)
def test_grey_clamped_small_and_whole_numbers_are_samples(bench: Bench, tmp_path: Path, gives: str, pixel: int) -> None:
    odd = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, gives=gives)

    (kept,) = bench.score(odd, FD, samples=5, keep=1).kept

    assert np.all(np.asarray(Image.open(kept.path)) == pixel)


def test_an_unreadable_partner_costs_its_sample_alone(bench: Bench, checkpoint: Path, content: Path) -> None:
    (content / "0003.png").write_bytes(b"no picture")

    made = bench.score(checkpoint, "ssim", options=FLIP, content=content)

    assert made.images == 6
    assert [skipped.path for skipped in made.skipped] == ["sample 0003"]
    assert "its content partner" in made.skipped[0].reason


def test_a_damaged_checkpoint_is_told_by_its_name(bench: Bench, tmp_path: Path) -> None:
    damaged = tmp_path / "checkpoints" / "step_000100.pt"
    damaged.parent.mkdir()
    damaged.write_text("{")

    with pytest.raises(InputError, match=r"checkpoint step_000100\.pt is damaged"):
        bench.score(damaged, FD)


def test_a_checkpoint_that_is_written_to_while_it_loads_has_changed(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step_000100.pt"
    write_checkpoint(path, 0.4, writes_over=str(path))

    with pytest.raises(ChangedError, match="was written to while it was read"):
        bench.score(path, FD)


def test_options_that_a_sampler_does_not_know_are_told(bench: Bench, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="sampler 'painter'"):
        bench.score(checkpoint, FD, options={"sise": 3})


def test_a_full_disk_costs_the_kept_pictures_and_no_score(bench: Bench, checkpoint: Path) -> None:
    (bench.folder / "kept").write_text("in the way")

    made = bench.score(checkpoint, FD, samples=3, keep=2)

    assert made.kept == ()
    assert made.images == 3
    assert "sample not kept" in [event for _, event, _ in bench.lines]


def test_a_checkpoint_that_is_written_to_while_it_samples_has_changed(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step_000100.pt"
    write_checkpoint(path, 0.4, writes_over_while_sampling=str(path))

    with pytest.raises(ChangedError, match="was written to while it was read"):
        bench.score(path, FD, samples=3)


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """PyTorch's switches as the worker has them for exact scores; they are properties, which monkeypatch cannot undo."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, was in zip(switches, before, strict=True):
        switch.allow_tf32 = was


@pytest.mark.usefixtures("no_tf32")
def test_what_a_sampler_does_to_pytorchs_switches_is_undone(bench: Bench, tmp_path: Path) -> None:
    reference = write_crops(bench.folder / "reference", 6, side=48, seed=2)
    good = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4)
    meddler = write_checkpoint(tmp_path / "checkpoints" / "step_000200.pt", 0.4, meddles=True)

    expected = only(bench.score(good, FD, samples=6, reference=reference), FD).value
    found = only(bench.score(meddler, FD, samples=6, reference=reference), FD).value

    assert found == pytest.approx(expected, rel=1e-6)
    assert torch.get_default_dtype() is torch.float32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark


def test_a_sampler_that_cannot_close_costs_no_score_and_is_made_anew(bench: Bench, tmp_path: Path) -> None:
    stuck = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, cannot_close=True)

    assert bench.score(stuck, FD, samples=3).images == 3
    assert "sampler not closed" in [event for _, event, _ in bench.lines]
    assert not bench.evaluator._samplers._made


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_device_that_is_lost_is_told_from_other_errors(bench: Bench, tmp_path: Path, wrapped: bool) -> None:
    dead = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, loses_the_device=True)

    with pytest.raises(RuntimeError, match="CUDA error") as caught:
        bench.score(dead, FD, samples=3)

    error: Exception = caught.value
    if wrapped:
        error = InputError("the user's function failed")
        error.__cause__ = caught.value
    assert is_lost(error)
    assert not is_lost(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_lost(RuntimeError("CUDA error: out of memory"))


def test_values_far_beyond_the_range_are_told_once(bench: Bench, tmp_path: Path) -> None:
    wild = write_checkpoint(tmp_path / "checkpoints" / "step_000100.pt", 0.4, gives="torch.full((n, 3, 16, 16), 100.0)")
    mild = write_checkpoint(tmp_path / "checkpoints" / "step_000200.pt", 0.4, gives="torch.full((n, 3, 16, 16), 1.2)")

    for checkpoint in (mild, wild, wild):
        bench.score(checkpoint, FD, samples=3)

    (told,) = [fields for _, event, fields in bench.lines if event == "samples clamped"]
    assert told["reason"].startswith("values from 0 to 100 were clamped to 0..1")
