"""What daemon and worker say to each other: one JSON object a line over a dedicated pair of pipes.

Standard library only, so that a worker starts with nothing but torch, torchvision, numpy and pillow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from metricwatch.errors import WorkerError
from metricwatch.records import (
    Compared,
    Evaluation,
    KeptSample,
    Look,
    Lookalike,
    Neighbour,
    Score,
    ScoreState,
    Skipped,
)

# --- daemon to worker --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """The first message: how this worker shall compute.

    weights maps an extractor to an explicit file (or folder), protocols to one of its named preprocessings. cache is
    the directory for statistics of references and for features, of which feature_cache_bytes are kept (0: none).

    The rest is for a worker that has neighbours, and asks for nothing by default: nice and ionice (best-effort, idle or
    none) are its priorities for CPU and disk, threads bounds each of its pools; max_gpu_share and max_cpu_share say for
    which share of the time it may be busy on such a device, in pauses of longest_pause seconds at most; gpu_memory is
    how many bytes PyTorch may take on a GPU, min_free_gpu_memory how many must be free for an evaluation to begin.
    """

    device: str = "auto"
    precision: str = "exact"
    engine: str = "auto"
    cache: str = ""
    feature_cache_bytes: int = 2_000_000_000
    weights: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 32
    max_pixels: int = 100_000_000
    heartbeat_seconds: float = 2.0
    nice: int = 0
    ionice: str = "none"
    threads: int | None = None
    max_gpu_share: float = 1.0
    max_cpu_share: float = 1.0
    longest_pause: float = 900.0
    gpu_memory: int | None = None
    min_free_gpu_memory: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How images are made of a checkpoint.

    use is the sampler's name and options are its own. samples: how many (None: one for each pair of partners, or 64
    without any), the first with this seed, the next with the one after. keep: how many of them become PNG files in the
    directory kept. batch_size None: the worker's own. pins is a directory for links to the checkpoint while it is read.
    """

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    seed: int = 0
    keep: int = 0
    kept: str = ""
    batch_size: int | None = None
    pins: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Which small pictures to leave in a directory, which the worker makes: records.Look says what they are.

    samples, compared and neighbours say how many of each; side is the longer side of a picture in pixels at most.
    heat is the metric whose maps are wanted: one of those asked for that has maps, or any other that can be had.
    """

    folder: str
    samples: int = 16
    compared: int = 4
    neighbours: int = 4
    side: int = 256
    heat: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Score one snapshot: images, or with `sampling` a checkpoint.

    path is a directory, or one file; members names files below it (None: every image in it, or the checkpoint is all
    of the directory). digest is the fingerprint of these files at the time they settled, "" to skip the check. options
    maps a metric to its options. An image's partners and prompt come from a manifest.jsonl in its own directory, else
    from the manifest named here, else from content, style (directories, by file stem) and prompt (one text for all).
    patient: where the GPU has no room, ask to be called again; otherwise those metrics have failed. look: the small
    pictures wanted beside the scores, None: none.
    """

    job: int
    path: str
    step: int = 0
    members: tuple[str, ...] | None = None
    digest: str = ""
    metrics: tuple[str, ...] = ()
    reference: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    content: str | None = None
    style: str | None = None
    manifest: str | None = None
    prompt: str = ""
    patient: bool = True
    sampling: Sampling | None = None
    look: Looking | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Finish nothing, exit now."""


# --- worker to daemon --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker has its device and takes jobs."""

    pid: int
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Still alive. job is the one at work, or None; done of total counts images of its current phase."""

    job: int | None = None
    phase: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A job's scores."""

    job: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A job that gave no scores. changed: the files moved under us, a newer revision will follow; gone: there are none
    any more, as where a trainer keeps its last checkpoints only. fatal: the worker cannot go on and ends by itself.
    """

    job: int
    reason: str
    retryable: bool = False
    changed: bool = False
    gone: bool = False
    fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A line for the daemon's log."""

    level: str
    event: str
    fields: Mapping[str, str] = field(default_factory=dict)


Request = Configure | Evaluate | Stop
Reply = Ready | Heartbeat | Result | Failure | Log
Message = Request | Reply

_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (Configure, Evaluate, Stop, Ready, Heartbeat, Result, Failure, Log)
}


def encode(message: Message) -> bytes:
    """One line, newline included. Non-finite numbers are refused: scores without a value are None."""
    document = {"type": type(message).__name__, **asdict(message)}
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message on one line. Raises WorkerError when it is not one of ours."""
    try:
        document = json.loads(line)
        cls = _TYPES[document.pop("type")]
        known = {item.name for item in fields(cls)}
        message: Message = cls(**{key: _restore(key, value) for key, value in document.items() if key in known})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkerError(f"not a protocol message ({error!r}): {line[:200]!r}") from error
    return message


def _restore(key: str, value: Any) -> Any:
    """JSON has neither tuples nor our records: put them back."""
    if key == "evaluation":
        return Evaluation(
            **{
                **value,
                "scores": tuple(Score(**{**score, "state": ScoreState(score["state"])}) for score in value["scores"]),
                "skipped": tuple(Skipped(**item) for item in value["skipped"]),
                "kept": tuple(KeptSample(**item) for item in value["kept"]),
                "look": _look(value.get("look")),
            }
        )
    if key == "sampling" and value is not None:
        return Sampling(**value)
    if key == "look" and value is not None:
        return Looking(**value)
    return tuple(value) if isinstance(value, list) else value


def _look(value: Any) -> Look | None:
    if value is None:
        return None
    lookalikes = (
        Lookalike(**{**item, "nearest": tuple(Neighbour(**each) for each in item["nearest"])})
        for item in value["lookalikes"]
    )
    return Look(
        **{
            **value,
            "samples": tuple(KeptSample(**item) for item in value["samples"]),
            "compared": tuple(Compared(**item) for item in value["compared"]),
            "lookalikes": tuple(lookalikes),
        }
    )
