"""The callbacks in Lightning's and Hugging Face's own trainers: what is saved, and that training does not notice."""

from __future__ import annotations

import importlib
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from metricwatch.callbacks.sampling import Sampling, undisturbed
from metricwatch.errors import InputError
from metricwatch.records import Run
from metricwatch.watch.scan import look_into, scan
from metricwatch.worker.manifest import read_manifest
from tests.support.entries import watch_entry

STEPS = 6


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def network() -> nn.Module:
    """Draws random numbers in training (dropout), keeps statistics (batch norm), and holds one part in eval mode."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 12))
    net[3].eval()
    return net


def steps(samples: Path) -> dict[int, int]:
    """Number of images by step, as the watcher sees them; all of them marked as complete."""
    found = scan(watch_entry(samples, Run(key="r", name="r"), markers=(".done",))).candidates
    contents = {step: look_into(candidate, (".done",)) for step, candidate in found.items()}
    assert all(content.marked for content in contents.values())
    return {step: content.images for step, content in contents.items()}


def chance() -> float:
    """Of Python's and of numpy's own global random numbers, as augmentations draw them."""
    return random.random() + float(np.random.rand())  # noqa: NPY002


def sample(module: nn.Module, step: int) -> Iterator[tuple[Any, ...]]:
    """Three images, all of which use up random numbers; a generator, so that they are made late."""
    assert not any(part.training for part in module.modules())
    assert not torch.is_grad_enabled()
    chance()
    for index in range(3):
        image = module(torch.rand(4, 12)).reshape(3, 4, 4).sigmoid()
        assert not image.requires_grad
        yield f"{index:04}", image, {"prompt": f"at step {step}"}


def train_with_lightning(package: str, folder: Path, callbacks: list[Any], **options: Any) -> dict[str, torch.Tensor]:
    """Train, by two optimizers with two_optimizers=True; returns all that training depends on, as it is at the end."""
    pl = importlib.import_module(package)

    class Module(pl.LightningModule):
        def __init__(self, two_optimizers: bool) -> None:
            super().__init__()
            self.net = network()
            self.automatic_optimization = not two_optimizers
            self.modes: list[bool] = []

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.net(values)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            self.modes = [part.training for part in self.net]
            noise = torch.rand(()) + chance()
            if not self.automatic_optimization:
                for optimizer in self.optimizers():
                    optimizer.step()
            return ((self(batch[0]) - noise) ** 2).mean()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            count = 1 if self.automatic_optimization else 2
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(count)]

    pl.seed_everything(3)
    module = Module(options.pop("two_optimizers", False))
    defaults = {"max_steps": STEPS, "logger": False, "accelerator": "cpu", "default_root_dir": folder}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=callbacks, **{**defaults, **quiet, **options})
    # Six batches in random order.
    trainer.fit(module, DataLoader(TensorDataset(torch.rand(24, 12)), batch_size=4, shuffle=True))
    return {**module.state_dict(), "modes": torch.tensor(module.modes), "next": torch.rand(3)}


def train_with_transformers(folder: Path, callbacks: list[Any], **options: Any) -> dict[str, torch.Tensor]:
    from transformers import Trainer, TrainingArguments, set_seed

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, values: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
            noise = torch.rand(()) + chance() if self.training else 0.0
            made = self.net(values)
            return {"loss": ((made - noise) ** 2).mean(), "made": made}

    set_seed(3)
    model = Model()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, use_cpu=True, save_strategy="no",
        disable_tqdm=True, report_to=[], dataloader_pin_memory=False, seed=3, **options,
    )  # fmt: skip
    data = [{"values": row} for row in torch.rand(24, 12)]
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=callbacks).train()
    return {**model.state_dict(), "next": torch.rand(3)}


def sample_of_transformers(model: nn.Module, step: int) -> Iterator[tuple[Any, ...]]:
    return sample(model.net, step)


def test_lightning_writes_sets_that_the_watcher_reads_and_trains_the_same_to_the_bit(tmp_path):
    from metricwatch.callbacks.lightning import SnapshotCallback

    callback = SnapshotCallback(tmp_path / "samples", sample, every_n_steps=2, on_error="raise")
    plain = train_with_lightning("lightning.pytorch", tmp_path, [])
    watched = train_with_lightning("lightning.pytorch", tmp_path, [callback])
    assert steps(tmp_path / "samples") == {2: 3, 4: 3, 6: 3}
    manifest = read_manifest(str(tmp_path / "samples/step_000004/manifest.jsonl"))
    assert manifest.find("0002.png").prompt == "at step 4"
    assert_same(plain, watched)
    # The part that is held in eval mode is so still.
    assert watched["modes"].tolist() == [True, True, True, False, True]


def test_transformers_writes_sets_that_the_watcher_reads_and_trains_the_same_to_the_bit(tmp_path):
    from metricwatch.callbacks.transformers import SnapshotCallback

    callback = SnapshotCallback(tmp_path / "samples", sample_of_transformers, every_n_steps=4, on_error="raise")
    plain = train_with_transformers(tmp_path, [])
    watched = train_with_transformers(tmp_path, [callback])
    assert steps(tmp_path / "samples") == {4: 3}
    assert_same(plain, watched)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_two_optimizers_and_the_older_package_name_give_a_set_each_time_a_multiple_is_passed(tmp_path):
    """Lightning counts two steps a batch there: 2, 4, 6, 8, 10, 12."""
    from metricwatch.callbacks.pytorch_lightning import SnapshotCallback

    callback = SnapshotCallback(tmp_path / "samples", sample, every_n_steps=5, suffix=".jpg", on_error="raise")
    train_with_lightning("pytorch_lightning", tmp_path, [callback], two_optimizers=True, max_steps=12)
    assert steps(tmp_path / "samples") == {6: 3, 10: 3}
    assert (tmp_path / "samples/step_000006/0000.jpg").exists()


def test_a_job_that_goes_on_does_not_write_its_last_step_again(tmp_path):
    from metricwatch.callbacks.transformers import SnapshotCallback

    callback = SnapshotCallback(tmp_path, sample, every_n_steps=2)
    callback.begin(4)
    callback.step_done(network(), 5, 0)
    assert not list(tmp_path.iterdir())
    callback.step_done(network(), 6, 0)
    assert steps(tmp_path) == {6: 3}


def test_noise_is_the_same_at_each_step_unless_the_seed_is_none(tmp_path):
    drawn: dict[int | None, list[float]] = {0: [], None: []}

    def draw(seed: int | None) -> Callable[[nn.Module, int], dict[str, torch.Tensor]]:
        def noise(_: nn.Module, __: int) -> dict[str, torch.Tensor]:
            image = torch.rand(3, 4, 4)
            drawn[seed].append(float(image.sum()) + chance())
            return {"noise": image}

        return noise

    for seed in drawn:
        sampling = Sampling(tmp_path, draw(seed), every_n_steps=1, seed=seed, on_error="raise")
        for step in (1, 2):
            sampling.step_done(network(), step, 0)
            torch.rand(1), chance()
    assert drawn[0][0] == drawn[0][1]
    assert drawn[None][0] != drawn[None][1]


def test_a_sample_function_that_fails_costs_a_warning_with_its_traceback_and_training_goes_on(tmp_path, caplog):
    from metricwatch.callbacks.lightning import SnapshotCallback

    def broken(module: nn.Module, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((name, image) for name, image, _ in sample(module, step))
        raise KeyError("photo")

    plain = train_with_lightning("lightning.pytorch", tmp_path, [])
    broken_one = SnapshotCallback(tmp_path / "samples", broken, every_n_steps=3)
    assert_same(plain, train_with_lightning("lightning.pytorch", tmp_path, [broken_one]))
    assert not list((tmp_path / "samples").iterdir())
    told = [record for record in caplog.records if record.name == "metricwatch.callbacks"]
    assert [record.getMessage() for record in told] == [
        f"step {step}: no snapshot in {tmp_path / 'samples'}: 'photo'" for step in (3, 6)
    ]
    assert all(record.exc_info for record in told)


def test_a_folder_that_cannot_be_written_costs_a_line_of_warning(tmp_path, caplog):
    (tmp_path / "samples").write_text("in the way")
    Sampling(tmp_path / "samples", sample, every_n_steps=1).step_done(network(), 1, 0)
    (record,) = caplog.records
    assert "step 1: no snapshot in" in record.getMessage()
    assert "File exists" in record.getMessage()
    assert not record.exc_info
    with pytest.raises(FileExistsError):
        Sampling(tmp_path / "samples", sample, every_n_steps=1, on_error="raise").step_done(network(), 1, 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"suffix": ".bmp"}, "images are saved as"),
    ],
)
def test_a_wrong_argument_is_refused_before_training_starts(tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        Sampling(tmp_path, sample, **options)


def test_other_ranks_sample_only_where_all_must_and_never_write(tmp_path):
    called = []

    def count(_: nn.Module, step: int) -> dict[str, torch.Tensor]:
        called.append(step)
        return {"a": torch.zeros(3, 4, 4)}

    Sampling(tmp_path, count, every_n_steps=1).step_done(network(), 1, rank=1)
    assert not called
    Sampling(tmp_path, count, every_n_steps=1, all_ranks=True).step_done(network(), 1, rank=1)
    assert called == [1]
    assert not list(tmp_path.iterdir())


def test_what_fails_inside_leaves_modes_and_random_numbers_as_they_were():
    module = network()
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), undisturbed(module, 0):
        raise ZeroDivisionError
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def test_lightnings_mlflow_run_id_is_written_for_the_daemon(tmp_path, store):
    from lightning.pytorch.loggers import MLFlowLogger

    from metricwatch.callbacks.lightning import SnapshotCallback

    file = tmp_path / "night/mlflow_run_id"
    logger = MLFlowLogger("night", tracking_uri=store, artifact_location=str(tmp_path / "artifacts"))
    callback = SnapshotCallback(tmp_path / "samples", sample, run_id_file=file, on_error="raise")
    train_with_lightning("lightning.pytorch", tmp_path, [callback], logger=logger)
    assert file.read_text() == f"{logger.run_id}\n"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_run_id_of_transformers_own_mlflow_callback_is_written_for_the_daemon(tmp_path, store, monkeypatch):
    import mlflow
    from transformers.integrations import MLflowCallback

    from metricwatch.callbacks.transformers import SnapshotCallback

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "transformers")
    file = tmp_path / "mlflow_run_id"
    callback = SnapshotCallback(tmp_path / "samples", sample, run_id_file=file, on_error="raise")
    try:
        # In the order in which their run starts after our turn.
        train_with_transformers(tmp_path, [callback, MLflowCallback])
        (run,) = mlflow.search_runs(experiment_names=["transformers"], output_format="list")
    finally:
        mlflow.end_run()
        mlflow.set_tracking_uri(None)
    assert file.read_text() == f"{run.info.run_id}\n"
