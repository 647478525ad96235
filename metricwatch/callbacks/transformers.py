"""Sample sets from Hugging Face's Trainer."""

from __future__ import annotations

import sys
from typing import Any

from transformers import TrainerCallback

from metricwatch.callbacks.sampling import Sampling


class SnapshotCallback(Sampling, TrainerCallback):
    """Saves what sample(model, step) makes every so many steps; arguments and promises are those of Sampling.

    Trainer(..., callbacks=[SnapshotCallback("runs/night/samples", sample, every_n_steps=1000)])
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self.begin(state.global_step)
        self._look_for_run(state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        del args, control, kwargs
        self._look_for_run(state)
        self.step_done(model, state.global_step, 0 if state.is_world_process_zero else 1)

    def _look_for_run(self, state: Any) -> None:
        # MLflowCallback may start its run after our turn: it is asked for until there is one.
        if self.wants_run_id() and state.is_world_process_zero:
            self.note_run_id(_run_id)


def _run_id() -> str | None:
    mlflow = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow else None
    return run.info.run_id if run else None
