"""What Lightning calls, under both of its package names."""

from __future__ import annotations

from typing import Any

from metricwatch.callbacks.sampling import Sampling


class LightningHooks(Sampling):
    """Hooks of a Lightning callback; steps are those of trainer.global_step, as in the names of its checkpoints."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        del pl_module
        self.begin(trainer.global_step)
        if trainer.global_rank == 0:
            self.note_run_id(lambda: _run_id(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.step_done(pl_module, trainer.global_step, trainer.global_rank)


def _run_id(trainer: Any) -> str | None:
    # By the class's name: other loggers have a run_id that is none of MLflow's.
    found = (logger for logger in trainer.loggers if "MLFlowLogger" in {kind.__name__ for kind in type(logger).mro()})
    return next((logger.run_id for logger in found), None)
