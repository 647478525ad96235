"""The process that W&B's library runs in: its exit hooks, signals and waiting for uploads are not the daemon's."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from metricwatch_wandb import sent
from metricwatch_wandb.open_runs import OpenRuns

_IDLE_SECONDS = 3600
_LOCK_SECONDS = 20
_PROBE_SECONDS = 10
# Of one run. The daemon waits for FINISH_SECONDS when it ends, and nothing of this process stays longer.
_UPLOAD_SECONDS = 20
FINISH_SECONDS = 45


class _Refused(Exception):  # noqa: N818 - it is an answer
    """kind says what the sink raises: temporary, permanent or gone."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """W&B's settings: nothing of this machine, its programs or its console is collected."""
    return {
        **{name: asked[name] for name in ("project", "entity", "mode", "api_key", "base_url") if asked[name]},
        "root_dir": asked["directory"],
        "reinit": "create_new",
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "finish_timeout": _UPLOAD_SECONDS,
        "host": "metricwatch",
        "init_timeout": 20,
        "label_disable": True,
        "save_code": False,
        "silent": True,
        # A button on W&B's page ends a training run, not the daemon that watches it.
        "stop_fn": _go_on,
        "symlink": False,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "x_service_wait": 20,
        "x_transaction_log_flush_interval": 0.2,
    }


def serve(connection: socket.socket) -> None:
    """Answer request by request until the other side has gone or has been silent for an hour. Does not return."""
    connection.settimeout(_IDLE_SECONDS)
    with connection, connection.makefile("rwb") as stream, tempfile.TemporaryDirectory() as folder:
        secret = ""
        server: _Server | None = None
        with suppress(OSError):
            for line in stream:
                request = json.loads(line)
                try:
                    if server is None:
                        secret = request["settings"]["api_key"] or ""
                        server = _Server(request["settings"], Path(folder))
                    answer: dict[str, Any] = {"result": server.answer(request)}
                except _Refused as refusal:
                    answer = {"kind": refusal.kind, "message": str(refusal)}
                except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told
                    # What W&B's library is in now is not known: the next request finds a fresh process.
                    answer = {"kind": "temporary", "message": f"{type(error).__name__}: {error}", "ends": True}
                text = json.dumps(answer)
                stream.write((text.replace(secret, "******") if secret else text).encode() + b"\n")
                stream.flush()
                if "ends" in answer:
                    os._exit(1)
        _end_in(FINISH_SECONDS)
        if server is not None:
            with suppress(Exception):
                server.finish()
    os._exit(0)


class _Server:
    def __init__(self, asked: Mapping[str, Any], folder: Path) -> None:
        self._directory = Path(asked["directory"])
        self._settings = settings_of(asked)
        self._runs = OpenRuns(self._settings)
        self._folder = folder

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        do = request["do"]
        if do == "ping":
            return {"server": self._probe()}
        run_id = request["run_id"]
        if run_id not in self._runs and self._settings["mode"] == "online":
            # W&B's library tries for much longer than anybody waits here.
            self._probe()
        try:
            with sent.locked(self._directory, run_id, wait=_LOCK_SECONDS) as noted:
                if do == "open":
                    return {"url": self._open(run_id, noted).url}
                if do == "write":
                    return self._write(run_id, noted, request)
                return self._write_picture(run_id, noted, request)
        except FileNotFoundError as error:
            if not sent.file_of(self._directory, run_id).exists():
                raise _Refused("gone", f"{self._directory} has no run {run_id!r}") from None
            raise error from None
        except BlockingIOError:
            raise _Refused("temporary", f"another process is writing to run {run_id!r}") from None

    def finish(self) -> None:
        self._runs.finish()
        if "wandb" in sys.modules:
            import wandb

            wandb.teardown()

    def _write(self, run_id: str, noted: sent.Sent, request: Mapping[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        # A step's keys share a row; a key that is there already begins another.
        newest: dict[tuple[int, int], dict[str, Any]] = {}
        added: dict[str, None] = {}
        for key, value, timestamp_ms, step in request["points"]:
            identity = sent.identity("point", key, repr(value), timestamp_ms, step)
            if identity in noted.known or identity in added:
                continue
            added[identity] = None
            row = newest.get((step, timestamp_ms))
            if row is None or key in row:
                row = newest[step, timestamp_ms] = {"step": step, "timestamp_ms": timestamp_ms}
                rows.append(row)
            row[key] = value
        if rows or request["tags"]:
            self._open(run_id, noted).log(rows, request["tags"])
            noted.add(added)
        return {"rows": len(rows)}

    def _write_picture(self, run_id: str, noted: sent.Sent, request: Mapping[str, Any]) -> dict[str, Any]:
        row = {"step": request["step"], "timestamp_ms": request["timestamp_ms"]}
        identity = sent.identity("picture", request["key"], *row.values())
        if identity in noted.known:
            return {"rows": 0}
        file = self._folder / "picture.png"
        file.write_bytes(base64.b64decode(request["png"]))
        self._open(run_id, noted).log_picture(request["key"], file, row)
        noted.add([identity])
        return {"rows": 1}

    def _open(self, run_id: str, noted: sent.Sent) -> Any:
        from wandb.errors import Error

        try:
            return self._runs.get(run_id, noted.name)
        except (Error, ValueError) as error:
            text = " ".join(str(error).split())[:500]
            if "deleted" in text:
                raise _Refused(
                    "gone", f"run {run_id!r} was deleted, and W&B takes nothing under its id again: {text}"
                ) from None
            hint = "; set api_key, or log in with `wandb login`" if "api key" in text.lower() else ""
            raise _Refused("temporary", f"run {run_id!r} cannot be opened: {text}{hint}") from None

    def _probe(self) -> str:
        import wandb

        address = wandb.setup(settings=wandb.Settings(**self._settings)).settings.base_url
        if not address.startswith(("http://", "https://")):
            raise _Refused("permanent", "base_url is no address of a web server")
        try:
            with urllib.request.urlopen(address, timeout=_PROBE_SECONDS):  # noqa: S310 - checked above
                pass
        except urllib.error.HTTPError:
            # Who refuses is there.
            pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise _Refused("temporary", f"{address} cannot be reached: {reason}") from None
        return str(address)


def _go_on() -> None:
    """What W&B calls in the place of an interrupt."""


def _end_in(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [0])
    timer.daemon = True
    timer.start()
