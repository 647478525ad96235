"""An evaluator as the worker has it, whose networks can be listened to and run again alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metricwatch.protocol import Configure, Evaluate
from metricwatch.records import Evaluation
from metricwatch.worker.engines import set_up
from metricwatch.worker.evaluate import Evaluator
from metricwatch.worker.progress import Progress

BATCH = 32


@dataclass(slots=True)
class Rig:
    """Evaluations with a feature cache of its own below `folder`, which is empty until something is scored."""

    folder: Path
    weights: dict[str, str]
    evaluator: Evaluator = field(init=False)
    _calls: list[tuple[Callable[[Any], object], Any]] = field(init=False, default_factory=list)
    _heard: set[str] = field(init=False, default_factory=set)
    _caches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Go on with an empty cache of features and references, and networks to be loaded anew."""
        self._caches += 1
        shutil.rmtree(self.folder / f"cache-{self._caches - 1}", ignore_errors=True)
        configure = Configure(
            engine="auto",
            cache=str(self.folder / f"cache-{self._caches}"),
            feature_cache_bytes=4_000_000_000,
            batch_size=BATCH,
            weights=self.weights,
        )
        self.evaluator = Evaluator(
            configure, set_up(configure), lambda *_line, **_fields: None, Progress(on_change=lambda _beat: None)
        )

    def forget_features(self) -> None:
        """Let the next evaluation find no rows that are kept; networks and references stay loaded."""
        self.evaluator._cache._drop()
        for path in (self.folder / f"cache-{self._caches}").glob("features.sqlite3*"):
            path.unlink()

    def evaluate(self, path: Path, metrics: Sequence[str], **request: str) -> tuple[Evaluation, float]:
        """The evaluation, and the seconds that it took."""
        started = time.perf_counter()
        evaluation = self.evaluator.evaluate(Evaluate(job=1, path=str(path), metrics=tuple(metrics), **request))
        return evaluation, time.perf_counter() - started

    def listen(self) -> None:
        """From now on remember what loaded networks are given."""
        for name, extractor in self.evaluator._extractors._loaded.items():
            if name not in self._heard:
                self._heard.add(name)
                for method in ("features", "layers"):
                    self._listen_to(extractor.engine, method)

    def hush(self) -> None:
        """Forget what they were given."""
        self._calls.clear()

    def alone(self) -> float:
        """The seconds that the networks take for the same tensors in the same batches, one call after another."""
        started = time.perf_counter()
        for call, pictures in self._calls:
            call(pictures)
        return time.perf_counter() - started

    def _listen_to(self, engine: object, method: str) -> None:
        call = getattr(engine, method)

        def heard(pictures: object) -> object:
            self._calls.append((call, pictures))
            return call(pictures)

        setattr(engine, method, heard)
