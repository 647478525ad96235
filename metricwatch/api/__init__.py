"""The plugin SDK: the one module of ours that a plugin imports.

Four kinds of plugin, found through entry points (groups ``metricwatch.metrics``, ``.samplers``, ``.sinks``,
``.notifiers``). Importing a plugin's module must be cheap: torch and its friends wait until they are used.
Metrics and samplers live in the worker process, sinks and notifiers in the daemon.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from metricwatch.errors import (
    ConfigError,
    InputError,
    MetricwatchError,
    MissingWeightsError,
    PermanentError,
    PluginError,
    RunGoneError,
    TemporaryError,
)
from metricwatch.records import (
    Alert,
    AlertState,
    Notification,
    Point,
    RemoteRun,
    Run,
    ScoreState,
    WindowPoint,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Arrays = Mapping[str, npt.NDArray[np.generic]]
else:
    # The name must exist at run time for plugins to import; numpy need not.
    Arrays = Mapping

__all__ = [
    "Alert",
    "AlertState",
    "Arrays",
    "Batch",
    "ConfigError",
    "InputError",
    "Metric",
    "MetricSpec",
    "MetricwatchError",
    "MissingWeightsError",
    "Need",
    "Notification",
    "Notifier",
    "PermanentError",
    "PluginError",
    "Point",
    "RemoteRun",
    "Run",
    "RunGoneError",
    "Sampler",
    "SamplerSpec",
    "ScoreState",
    "Secret",
    "Sink",
    "TemporaryError",
    "Value",
    "WindowPoint",
]

Need = Literal["reference", "content", "style", "prompt"]


class Secret:
    """A string that shows as ****** wherever it is printed; reveal() is the only way to read it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('******')"

    def __str__(self) -> str:
        return "******"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let pydantic read a plain string into a Secret. Imported here: workers have no pydantic."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )


# --- metrics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric gives and what it asks for.

    keys: the score keys it may return, the first being the metric's own name.
    extractors: names of the feature extractors whose output it reads from Batch.features.
    needs: what else must be there. "reference" is a set of images (or saved statistics) to compare with.
    protocol: the named preprocessing of its extractors, part of every score's provenance.
    """

    keys: tuple[str, ...]
    higher_is_better: bool
    extractors: tuple[str, ...] = ()
    needs: frozenset[Need] = frozenset()
    protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """N images, decoded once and passed once through each extractor, shared by all metrics.

    names: N file stems. images: N tensors, uint8, shape (3, H, W), RGB, range 0..255; sizes may differ.
    features: per extractor a float32 tensor (N, D). content, style: N partners of the same form as images, or
    empty when the metric did not ask for them. prompts: N strings, or empty. All on the worker's device.
    """

    names: tuple[str, ...]
    images: tuple[Tensor, ...]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    content: tuple[Tensor, ...] = ()
    style: tuple[Tensor, ...] = ()
    prompts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One computed score. value is None exactly when state is not OK; detail then says what is wrong."""

    key: str
    value: float | None
    images: int
    stderr: float | None = None
    state: ScoreState = ScoreState.OK
    detail: str = ""


class Metric(ABC):
    """An accumulator: update() with batches in any order and grouping, merge() with its like, compute().

    One instance serves one evaluation; an instance fed with the reference images gives, by statistics(), what
    later instances need to know of them. Metrics that need a reference get those arrays as `reference`.
    """

    spec: ClassVar[MetricSpec]

    def __init__(self, reference: Arrays | None = None) -> None:
        self.reference = reference

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in N images. Splitting the same images otherwise changes no result beyond rounding."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in all that `other` has seen. Associative; `other` is left untouched."""

    @abstractmethod
    def compute(self) -> Sequence[Value]:
        """The scores of what was seen so far. Never NaN: a score without a value has a named state."""

    def statistics(self) -> Arrays:
        """What compute() needs to know of a reference set, as arrays that np.savez can keep.

        Raises InputError when what was seen cannot serve as a reference (too few images, say).
        """
        raise PluginError(f"metric {self.spec.keys[0]!r} does not take a reference")

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        """Check statistics that came from a user's .npz and add what statistics() would have added.

        Raises InputError naming the array that is missing or has the wrong shape.
        """
        raise PluginError(f"metric {cls.spec.keys[0]!r} does not take a reference")


# --- samplers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """What a sampler asks for: the partners it must be given to make images from a checkpoint."""

    needs: frozenset[Need] = frozenset()


class Sampler(ABC):
    """Turns a checkpoint into images, the same seeds and partners at every step."""

    spec: ClassVar[SamplerSpec]

    @abstractmethod
    def open(self, checkpoint: str, device: str) -> None:
        """Load the checkpoint. Raises InputError when it is damaged or of another model."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Yield the samples, batch by batch, in a fixed order."""

    def close(self) -> None:
        """Give the device's memory back."""


# --- sinks -------------------------------------------------------------------------------------------------


class Sink(ABC):
    """Where curves go. The daemon calls it from one thread, at least once for each delivery.

    write() raises RunGoneError when the run is deleted or unknown: the points are kept, and find_run is asked anew.

    Options is a frozen dataclass whose fields are the keys a user may write under the sink's name. A method
    raises TemporaryError when trying the very same call later may help, PermanentError when it never will.
    """

    Options: ClassVar[type[Any]]

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Keep the options. No network traffic yet."""

    @abstractmethod
    def find_run(self, run: Run) -> RemoteRun:
        """Find the run, or create it where it is known by name only. Calling it again finds the same run."""

    @abstractmethod
    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Write all or raise. Writing the same points again must leave one copy of each."""

    @abstractmethod
    def ping(self) -> str:
        """Ask the other side for a sign of life; returns a line that says who answered."""

    def close(self) -> None:
        """Drop connections."""


# --- notifiers ---------------------------------------------------------------------------------------------


class Notifier(ABC):
    """Tells people. Errors as for Sink; a send that may or may not have arrived raises TemporaryError.

    Options is a frozen dataclass whose fields are the keys a user may write beside `use:`; a field of type
    Secret may also be given as `<field>_file`.
    """

    Options: ClassVar[type[Any]]

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Keep the options; raise ConfigError when they contradict each other. No network traffic yet."""

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Send one message and return when the other side has taken it."""

    def close(self) -> None:
        """Drop connections."""
