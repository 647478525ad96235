"""The daemon's end of the process that W&B's library runs in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from metricwatch.api import PermanentError, RunGoneError, TemporaryError
from metricwatch_wandb.serving import FINISH_SECONDS

_ANSWER_SECONDS = 60
_KINDS = {"temporary": TemporaryError, "permanent": PermanentError, "gone": RunGoneError}
# Of W&B's variables, those that say how to log in and to connect. Others, say WANDB_RUN_ID of a training job, are not
# meant for us.
_KEPT = frozenset({
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_CACHE_DIR",
    "WANDB_CONFIG_DIR",
    "WANDB_CREDENTIALS_FILE",
    "WANDB_DATA_DIR",
    "WANDB_HTTP_PROXY",
    "WANDB_HTTPS_PROXY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_INSECURE_DISABLE_SSL",
    "WANDB_X_EXTRA_HTTP_HEADERS",
})  # fmt: skip


class Child:
    """One process, started by the first request and again by the next one where it has ended.

    It ends when this side closes or dies.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Settings are those of serving.settings_of()."""
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ask(self, request: Mapping[str, Any], *, seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
        """The answer's result. Raises what the answer says, TemporaryError where none comes in time."""
        try:
            answer = self._exchange({**request, "settings": self._settings}, time.monotonic() + seconds)
        except TimeoutError:
            self._kill()
            raise TemporaryError(
                f"wandb: no answer within {seconds:g} s from W&B's library; it is started anew"
            ) from None
        except OSError as error:
            self._kill()
            raise TemporaryError(f"wandb: the process for W&B's library cannot be used: {error}") from None
        if "ends" in answer:
            self._kill()
        if "result" not in answer:
            raise _KINDS[answer["kind"]](f"wandb: {answer['message']}")
        return dict(answer["result"])

    def close(self) -> None:
        """Let it finish its runs; what is not uploaded by then stays in its files."""
        process, connection = self._process, self._socket
        if process is None or connection is None:
            return
        self._process = self._socket = None
        connection.close()
        try:
            process.wait(FINISH_SECONDS + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _exchange(self, request: Mapping[str, Any], until: float) -> dict[str, Any]:
        connection = self._started()
        connection.settimeout(max(0.01, until - time.monotonic()))
        connection.sendall(json.dumps(request).encode() + b"\n")
        gathered = bytearray()
        while not gathered.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            piece = connection.recv(1 << 16)
            if not piece:
                raise ConnectionResetError("it has ended before it answered")
            gathered += piece
        return dict(json.loads(gathered))

    def _started(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair()
        try:
            # -P: the folder that the daemon is started in may hold a random.py of its own.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "metricwatch_wandb", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._settings["directory"],
                env=_environment(),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        return ours

    def _kill(self) -> None:
        process, connection = self._process, self._socket
        self._process = self._socket = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name in _KEPT or not name.startswith("WANDB_")}
    return {**kept, "WANDB_ERROR_REPORTING": "false"}
