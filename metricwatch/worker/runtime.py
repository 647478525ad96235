"""The worker's loop: requests in on one pipe, replies out on another, a sign of life in between."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
from importlib import metadata
from typing import TYPE_CHECKING, NoReturn

from metricwatch import __version__, faults
from metricwatch.errors import ConfigError, MetricwatchError, TemporaryError, WorkerError
from metricwatch.protocol import Configure, Evaluate, Failure, Log, Ready, Reply, Result, Stop, decode, encode
from metricwatch.worker.courtesy import limit_threads, step_back
from metricwatch.worker.log import describe, log_failure, one_line
from metricwatch.worker.progress import Progress

if TYPE_CHECKING:
    from metricwatch.worker.evaluate import Evaluator

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
_REPORTED_PACKAGES = ("torch", "torchvision", "timm", "pytorch-fid", "torchmetrics", "pillow", "numpy")


class Channel:
    """The pair of pipes to the daemon. Whole messages only, from any thread."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._reader = open(read_fd, "rb")  # noqa: SIM115 - open as long as the process lives
        self._write_fd = write_fd
        self._lock = threading.Lock()

    def send(self, reply: Reply) -> None:
        self.write(encode(reply))

    def write(self, data: bytes) -> None:
        """Write one encoded message, whole."""
        try:
            with self._lock:
                while data:
                    data = data[os.write(self._write_fd, data) :]
        except OSError:
            # Nobody is left to work for.
            os._exit(0)

    def log(self, level: str, event: str, /, **fields: str) -> None:
        self.send(Log(level=level, event=event, fields=fields))

    def receive(self) -> bytes:
        """The next line, or nothing at the end of the pipe."""
        return self._reader.readline()


class Worker:
    """Takes jobs one at a time until told to stop or until the daemon is gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._jobs: queue.SimpleQueue[Evaluate] = queue.SimpleQueue()
        self._progress = Progress(on_change=channel.send)

    def run(self) -> NoReturn:
        configure = self._configuration()
        # Before the first thread, and before a library reads the environment.
        try:
            refused = step_back(configure)
        except ConfigError as error:
            self._give_up(error)
        for reason in refused:
            self._channel.log("info", "priority not lowered", reason=reason)
        # From here on the pipe's end is noticed at once, even while torch loads or a job runs.
        threading.Thread(target=self._listen, name="requests", daemon=True).start()
        # torch takes seconds to import: only now, when the pipe is watched.
        from metricwatch.worker.device_state import share_gpu
        from metricwatch.worker.engines import set_up
        from metricwatch.worker.evaluate import Evaluator

        try:
            device = set_up(configure)
            limit_threads(configure.threads)
            share_gpu(device, configure)
            evaluator = Evaluator(configure, device, self._channel.log, self._progress)
        except ConfigError as error:
            self._give_up(error)
        faults.reached("worker:ready")
        self._channel.send(Ready(pid=os.getpid(), device=str(device), versions=_versions()))
        threading.Thread(target=self._beat, args=(configure.heartbeat_seconds,), name="heartbeat", daemon=True).start()
        while True:
            self._serve(evaluator, self._jobs.get())

    def _give_up(self, error: ConfigError) -> NoReturn:
        self._channel.log("error", "worker cannot start", reason=str(error))
        # The last line of the worker's log is what the daemon shows.
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        os._exit(error.exit_code)

    def _serve(self, evaluator: Evaluator, request: Evaluate) -> None:
        self._progress.begin(request.job)
        faults.reached("worker:begun")
        try:
            reply: Reply = Result(job=request.job, evaluation=evaluator.evaluate(request))
            line = encode(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker lives on
            reply = self._failure(request, error)
            line = encode(reply)
        self._progress.end()
        faults.reached("worker:unanswered")
        self._channel.write(line)
        faults.reached("worker:answered")
        if isinstance(reply, Failure) and reply.fatal:
            os._exit(1)

    def _failure(self, request: Evaluate, error: Exception) -> Failure:
        from metricwatch.worker.device_state import is_lost
        from metricwatch.worker.samples import ChangedError, GoneError

        if not isinstance(error, MetricwatchError):
            # Of ours the daemon tells the reason.
            log_failure(self._channel.log, "evaluation failed", error, job=str(request.job), path=request.path)
        return Failure(
            job=request.job,
            # The ledger keeps text: a file's name may hold what is none.
            reason=one_line(describe(error)),
            retryable=isinstance(error, TemporaryError | MemoryError),
            changed=isinstance(error, ChangedError),
            gone=isinstance(error, GoneError),
            fatal=is_lost(error),
        )

    def _configuration(self) -> Configure:
        line = self._channel.receive()
        if not line:
            os._exit(0)
        message = decode(line)
        if not isinstance(message, Configure):
            raise WorkerError(f"the first message must be Configure, got {type(message).__name__}")
        return message

    def _listen(self) -> None:
        """Exit with the daemon. os._exit, because a job may be deep inside a library that cannot be interrupted."""
        while line := self._channel.receive():
            try:
                message = decode(line)
            except WorkerError as error:
                self._channel.log("error", "not understood", reason=str(error))
                continue
            if isinstance(message, Stop):
                break
            if isinstance(message, Evaluate):
                self._jobs.put(message)
            else:
                self._channel.log("error", "not understood", reason=f"a {type(message).__name__} comes once or never")
        os._exit(0)

    def _beat(self, seconds: float) -> NoReturn:
        pause = threading.Event()
        while True:
            pause.wait(seconds)
            self._channel.send(self._progress.now())


def serve(read_fd: int, write_fd: int) -> NoReturn:
    """Be a worker on these pipes for the rest of the process's life. Never returns.

    Ctrl-C belongs to the daemon; SIGTERM ends the worker at once, and so does, on Linux, the end of the thread that
    started it: whoever starts a worker must not do so from a thread that ends before the work does. What libraries
    print goes to stderr, because stdout may carry a document of the program that started us.
    """
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Beside a busy training job, the threads of one small eigenvalue problem wait for each other far longer than
    # they compute (16 times, measured). numpy reads this when it loads, which is later.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(Channel(read_fd, write_fd)).run()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends. Elsewhere the pipe's end must do.

    The pipe's end reaches a worker that runs; one that was stopped (SIGSTOP) would keep its memory for ever. The
    daemon starts workers from the lane that scores, or from its main thread: when either ends, so does the work.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _versions() -> dict[str, str]:
    versions = {"metricwatch": __version__, "python": sys.version.split()[0]}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
