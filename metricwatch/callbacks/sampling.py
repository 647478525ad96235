"""Sampling in the middle of training, so that training goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch

from metricwatch.errors import InputError, MetricwatchError
from metricwatch.hook import snapshot
from metricwatch.hook.staging import replace_text

log = logging.getLogger("metricwatch.callbacks")

# (module, step) -> images by name, or tuples (name, image) or (name, image, partners), where partners has any of the
# keys content, style and prompt of Snapshot.save.
Sample = Callable[[Any, int], Mapping[str, Any] | Iterable[tuple[Any, ...]]]
OnError = Literal["warn", "raise"]

_WITH_PARTNERS = 3


class Sampling:
    """What the callbacks of all trainers have in common.

    sample(module, step) is called whenever the step passes a multiple of every_n_steps, in eval mode, without
    gradients, with torch's, numpy's and Python's random numbers seeded by `seed` (None: as they are, so that other
    images are drawn each time). Afterwards modes and random states (CPU and CUDA) are as before. What it yields is
    written to a metricwatch.snapshot of the directory.

    on_error "warn" logs what goes wrong in sampling and saving, and lets training go on; "raise" is for trying out.
    sample is called on rank 0 alone, or with all_ranks=True on every rank, as models whose weights are sharded need
    it; only rank 0 writes. run_id_file is where the id of the job's MLflow run is written to once it is known.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        sample: Sample,
        *,
        every_n_steps: int = 1000,
        suffix: str = ".png",
        seed: int | None = 0,
        on_error: OnError = "warn",
        all_ranks: bool = False,
        run_id_file: str | os.PathLike[str] | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise InputError(f"every_n_steps is {every_n_steps}; it must be 1 or more")
        if on_error not in {"warn", "raise"}:
            raise InputError(f"on_error is {on_error!r}; it is 'warn' or 'raise'")
        # A wrong suffix or directory is told of before the job has trained for a thousand steps.
        snapshot(directory, 0, suffix=suffix, rank=0)
        self._directory = directory
        self._sample = sample
        self._every = every_n_steps
        self._suffix = suffix
        self._seed = seed
        self._on_error = on_error
        self._all_ranks = all_ranks
        self._run_id_file = run_id_file
        self._run_id = ""
        self._last = 0

    def begin(self, step: int) -> None:
        """Training starts or goes on after this step, which is not sampled (again)."""
        self._last = step

    def step_done(self, module: torch.nn.Module, step: int, rank: int) -> None:
        """Sample, where a multiple of every_n_steps has been passed since the last call.

        Passed, not met: with two optimizers Lightning counts two steps a batch.
        """
        is_due = step // self._every > self._last // self._every
        self._last = step
        if is_due and (rank == 0 or self._all_ranks):
            with self._guarded(f"step {step}: no snapshot in {os.fspath(self._directory)}"):
                self._take(module, step, rank)

    def wants_run_id(self) -> bool:
        """True while the run's id is to be written and has not been."""
        return self._run_id_file is not None and not self._run_id

    def note_run_id(self, find: Callable[[], str | None]) -> None:
        """Write the run's id to its file, if there is one by now."""
        if self._run_id_file is None:
            return
        with self._guarded(f"no MLflow run id in {os.fspath(self._run_id_file)}"):
            run_id = find()
            if run_id and run_id != self._run_id:
                replace_text(os.fspath(self._run_id_file), run_id)
                self._run_id = run_id

    def _take(self, module: torch.nn.Module, step: int, rank: int) -> None:
        with (
            undisturbed(module, self._seed),
            snapshot(self._directory, step, suffix=self._suffix, rank=rank) as target,
        ):
            samples = self._sample(module, step)
            # A generator makes its images here, while the mode is right.
            for item in samples.items() if isinstance(samples, Mapping) else samples:
                partners = item[2] if len(item) == _WITH_PARTNERS else {}
                target.save(item[0], item[1], **partners)

    @contextlib.contextmanager
    def _guarded(self, failure: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            # Reasons for what is known to go wrong; the sample function's own errors need their traceback.
            is_known = isinstance(error, (OSError, MetricwatchError))
            log.warning("%s: %s", failure, error or type(error).__name__, exc_info=not is_known)


@contextlib.contextmanager
def undisturbed(module: torch.nn.Module, seed: int | None) -> Iterator[None]:
    """Eval mode, no gradients and seeded random numbers inside; modes and random states as before afterwards.

    Each submodule gets its own mode back: one that is held in eval mode stays in it.
    """
    modes = {part: part.training for part in module.modules()}
    # Generators, because torch.manual_seed would also seed CUDA devices that nobody has started yet, later.
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.extend(torch.cuda.default_generators)
    states = [generator.get_state() for generator in generators]
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that other code draws from
    try:
        module.eval()
        if seed is not None:
            for generator in generators:
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        with torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for part, mode in modes.items():
            part.training = mode
