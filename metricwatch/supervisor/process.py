"""One worker process and the pipes to it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from metricwatch.errors import WorkerError
from metricwatch.protocol import Configure, Evaluate, Message, Reply, Request, Stop, decode, encode

log = structlog.get_logger(__name__)

_TAIL_BYTES = 2000
_KILL_SECONDS = 10.0


class WorkerProcess:
    """A spawned worker, configured and running. wake() is called from another thread when it says something.

    What libraries print in the worker goes to log_file; the file of the worker before is kept with .1 at its end. The
    worker exits by itself when its pipe closes, so it cannot outlive a killed daemon. However it ends, the processes
    that it has started are killed with it, unless they made a session of their own.
    """

    def __init__(
        self,
        configure: Configure,
        *,
        log_file: Path | None = None,
        environ: Mapping[str, str] | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._wake = wake
        self._log_file = log_file
        self._replies: queue.SimpleQueue[Reply | WorkerError] = queue.SimpleQueue()
        child_reads, write_fd = os.pipe()
        read_fd, child_writes = os.pipe()
        try:
            if log_file:
                with contextlib.suppress(OSError):
                    os.replace(log_file, f"{log_file}.1")
            output = open(log_file, "wb") if log_file else None  # noqa: SIM115 - handed to the child, closed below
            try:
                self._process = subprocess.Popen(
                    [
                        # -P: a training job's folder may hold a random.py or a timm.py of its own.
                        *(sys.executable, "-P", "-m", "metricwatch.worker"),
                        *("--read-fd", str(child_reads), "--write-fd", str(child_writes)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output or subprocess.DEVNULL,
                    stderr=subprocess.STDOUT if output else None,
                    pass_fds=(child_reads, child_writes),
                    env={**os.environ, **(environ or {})},
                    # Ctrl-C at the terminal is the daemon's to handle. It also makes a process group of it and its
                    # children, by which they are killed.
                    start_new_session=True,
                )
            finally:
                if output:
                    output.close()
        except OSError as error:
            os.close(write_fd)
            os.close(read_fd)
            raise WorkerError(f"cannot start a worker process: {error}") from error
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reaping = threading.Lock()
        self._ended = threading.Event()
        for name, target in (
            ("reader", lambda: self._read(read_fd)),
            ("writer", lambda: self._write(write_fd)),
            ("reaper", self._reap),
        ):
            threading.Thread(target=target, name=f"worker-{name}", daemon=True).start()
        self.send(configure)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: Request) -> None:
        """Hand the worker a message, without waiting for it. One that is gone is found by poll(), not here."""
        self._requests.put(encode(request))

    def poll(self) -> list[Reply]:
        """Everything the worker has said since the last poll. Raises WorkerError once, when it has gone."""
        replies: list[Reply] = []
        while True:
            try:
                reply = self._replies.get_nowait()
            except queue.Empty:
                return replies
            if isinstance(reply, WorkerError):
                if not replies:
                    raise reply
                # What it said before it went comes first; the end is told at the next poll.
                self._replies.put(reply)
                return replies
            replies.append(reply)

    def stop(self, grace: float = 5.0) -> None:
        """Ask it to exit, insist after `grace` seconds, and wait until it is gone."""
        self.send(Stop())
        self._requests.put(None)
        if not self._ended.wait(grace):
            self.kill()

    def kill(self) -> None:
        """End it and its children at once and wait until it is gone; a second call does nothing."""
        self._requests.put(None)
        with self._reaping:
            if not self._ended.is_set():
                self._kill_group()
        if not self._ended.wait(_KILL_SECONDS):
            # Stuck in the kernel, on a dead file server for one. It ends when that does; we have work to do.
            log.warning("worker.unkillable", pid=self._process.pid)

    def _reap(self) -> None:
        """Wait for its end, in a thread of its own, and kill what it has left behind."""
        if sys.platform == "darwin":
            # No waitid() in some of its Pythons.
            self._process.wait()
        else:
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            # Before it is reaped: until then its number cannot be that of another group. A child that holds the pipe
            # open, too, would keep the reader from the pipe's end.
            self._kill_group()
            self._process.wait()
            self._ended.set()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _write(self, fd: int) -> None:
        """Write what send() was given, in a thread of its own: a worker that does not read blocks nobody else."""
        with open(fd, "wb", buffering=0) as pipe:
            while (request := self._requests.get()) is not None:
                data = memoryview(request)
                try:
                    while data:
                        data = data[pipe.write(data) or 0 :]
                except OSError:
                    return

    def _read(self, fd: int) -> None:
        with open(fd, "rb") as pipe:
            try:
                for line in pipe:
                    message = decode(line)
                    self._replies.put(_reply(message))
                    self._wake()
            except WorkerError as error:
                end = error
                self.kill()
            else:
                self._ended.wait()
                status = self._process.returncode
                end = WorkerError(f"the worker {_ending(status)}{self._tail()}", status=status)
        self._replies.put(end)
        self._wake()

    def _tail(self) -> str:
        if self._log_file is None:
            return ""
        try:
            with self._log_file.open("rb") as file:
                file.seek(max(0, self._log_file.stat().st_size - _TAIL_BYTES))
                text = file.read().decode(errors="replace").strip()
        except OSError:
            return ""
        last = text.rsplit("\n", 1)[-1].strip()
        return (
            f"; its last words (all in {self._log_file.name}, with .1 at its end once another worker has begun): {last}"
            if last
            else ""
        )


def _reply(message: Message) -> Reply:
    if isinstance(message, Configure | Evaluate | Stop):
        raise WorkerError(f"the worker sent a {type(message).__name__}, which is the daemon's to send")
    return message


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return f"exited with status {code}"
