"""The daemon's end of a worker's pipes, as small as it can be."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping

from metricwatch.protocol import (
    Configure,
    Evaluate,
    Failure,
    Heartbeat,
    Log,
    Ready,
    Reply,
    Request,
    Result,
    decode,
    encode,
)


class WorkerClient:
    """A real worker process. `seen` keeps every reply in order."""

    def __init__(self, configure: Configure | None = None, environ: Mapping[str, str] | None = None) -> None:
        child_reads, self._write_fd = os.pipe()
        self._read_fd, child_writes = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "metricwatch.worker",
                "--read-fd",
                str(child_reads),
                "--write-fd",
                str(child_writes),
            ],
            pass_fds=(child_reads, child_writes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environ or {})},
        )
        os.close(child_reads)
        os.close(child_writes)
        self._buffer = b""
        self.seen: list[Reply] = []
        self.send(configure or Configure(device="cpu", engine="eager", heartbeat_seconds=0.2))

    def send(self, request: Request) -> None:
        os.write(self._write_fd, encode(request))

    def send_line(self, line: bytes) -> None:
        os.write(self._write_fd, line)

    def receive(self, timeout: float = 60.0) -> Reply | None:
        """The next reply, or None when the worker has closed its pipe."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the worker said nothing for {timeout} s; so far: {self.seen[-3:]}")
            data = os.read(self._read_fd, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply = decode(line)
        assert isinstance(reply, Ready | Heartbeat | Result | Failure | Log)
        self.seen.append(reply)
        return reply

    def wait_for(self, *kinds: type, timeout: float = 60.0) -> Reply:
        """The next reply of one of these kinds. Fails when the worker ends first."""
        deadline = time.monotonic() + timeout
        while True:
            reply = self.receive(max(0.1, deadline - time.monotonic()))
            if reply is None:
                raise AssertionError(f"the worker ended with {self.process.wait()}: {self.process.stderr.read()!r}")
            if isinstance(reply, kinds):
                return reply

    def wait_for_phase(self, phase: str) -> Heartbeat:
        """Wait until a heartbeat tells that the job has come to a phase."""
        while True:
            beat = self.wait_for(Heartbeat)
            if isinstance(beat, Heartbeat) and beat.phase == phase:
                return beat

    def evaluate(self, request: Evaluate) -> Result | Failure:
        self.send(request)
        reply = self.wait_for(Result, Failure)
        assert isinstance(reply, Result | Failure)
        return reply

    def logs(self) -> list[Log]:
        return [reply for reply in self.seen if isinstance(reply, Log)]

    def hang_up(self) -> None:
        """Close the pipe to the worker, as a killed daemon does."""
        os.close(self._write_fd)
        self._write_fd = -1

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        for fd in (self._write_fd, self._read_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
