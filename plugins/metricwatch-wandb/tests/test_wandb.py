"""The sink keeps the contract of sinks, as its .wandb files say, and leaves neither rows doubled nor processes behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from metricwatch_wandb import WandbOptions, WandbSink, sent
from metricwatch_wandb.transaction_log import TransactionLog
from wandb.proto.wandb_internal_pb2 import Record

from metricwatch import catalog
from metricwatch.api import PermanentError, Point, Secret, TemporaryError
from metricwatch.testing import samples
from metricwatch.testing.sink import SinkContract, _png

KEY = "sesame" * 7
COLUMNS = {"step", "timestamp_ms"}


def records(folder: Path, run_id: str) -> Iterator[tuple[Path, Any]]:
    """Every record of a run, over all folders that it has, with the folder of its files."""
    for file in sorted(folder.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb")):
        for data in TransactionLog(file).new():
            yield file.parent / "files", Record.FromString(data)


def rows(folder: Path, run_id: str) -> list[tuple[Path, dict[str, Any]]]:
    """What was logged, without what W&B adds; a picture's entry is a mapping."""
    found = []
    for files, record in records(folder, run_id):
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                key, *inner = item.nested_key
                if inner:
                    row.setdefault(key, {})[inner[0]] = json.loads(item.value_json)
                elif not key.startswith("_"):
                    row[key] = item.value_json
            found.append((files, row))
    return found


def stored_points(folder: Path, run_id: str) -> list[Point]:
    return [
        Point(key=key, value=float(text), timestamp_ms=int(row["timestamp_ms"]), step=int(row["step"]))
        for _, row in rows(folder, run_id)
        for key, text in row.items()
        if key not in COLUMNS and isinstance(text, str)
    ]


def stored_pictures(folder: Path, run_id: str) -> list[tuple[str, int, bytes]]:
    return [
        (key, int(row["step"]), (files / held["path"]).read_bytes())
        for files, row in rows(folder, run_id)
        for key, held in row.items()
        if isinstance(held, dict)
    ]


def stored_tags(folder: Path, run_id: str) -> dict[str, str]:
    return {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for _, record in records(folder, run_id)
        if record.HasField("summary")
        for item in record.summary.update
        if item.value_json.startswith('"') and len(item.nested_key) < 2
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wb")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[WandbSink]:
    """One for all tests of the contract: to start W&B's library takes a second or two."""
    made = WandbSink(WandbOptions(project="p", directory=folder, mode="offline", api_key=Secret(KEY)))
    yield made
    made.close()


def gone(pid: int, *, within: float = 10) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def service_of(pid: int) -> int:
    """The process of W&B's service that belongs to one of W&B's library."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


class TestWandbSink(SinkContract):
    sink = WandbSink
    secrets = (KEY,)

    @pytest.fixture
    def options(self, folder: Path) -> Any:
        return WandbOptions(project="p", directory=folder, mode="offline", api_key=Secret(KEY))

    @pytest.fixture
    def opened(self, shared: WandbSink) -> WandbSink:
        return shared

    @pytest.fixture
    def unreachable_options(self, tmp_path: Path) -> Any:
        return WandbOptions(project="p", directory=tmp_path, api_key=Secret(KEY), base_url="http://127.0.0.1:1")

    @pytest.fixture
    def stored(self, folder: Path) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: stored_points(folder, run_id)

    @pytest.fixture
    def stored_tags(self, folder: Path) -> Callable[[str], Mapping[str, str]]:
        return lambda run_id: stored_tags(folder, run_id)

    @pytest.fixture
    def stored_pictures(self, folder: Path) -> Callable[[str], Sequence[tuple[str, int, bytes]]]:
        return lambda run_id: stored_pictures(folder, run_id)

    @pytest.fixture
    def delete_run(self, folder: Path) -> Callable[[str], None]:
        def delete(run_id: str) -> None:
            sent.file_of(folder, run_id).unlink()
            for found in folder.glob(f"wandb/*-{run_id}*"):
                shutil.rmtree(found)

        return delete

    def test_the_keys_of_a_step_share_a_row_with_step_as_axis(
        self, opened: WandbSink, remote: Any, folder: Path
    ) -> None:
        both = [Point(key=key, value=1.5, timestamp_ms=7, step=3000) for key in ("quality/fid", "quality/kid")]
        opened.write(remote.id, both, {})
        (row,) = [row for _, row in rows(folder, remote.id)]
        assert row == {"quality/fid": "1.5", "quality/kid": "1.5", "step": "3000", "timestamp_ms": "7"}
        axes = [record.metric for _, record in records(folder, remote.id) if record.HasField("metric")]
        assert [(axis.glob_name, axis.step_metric) for axis in axes] == [("*", "step")]

    @pytest.mark.parametrize("key", ["step", "timestamp_ms", "_step"])
    def test_a_key_with_another_meaning_is_refused(self, opened: WandbSink, remote: Any, key: str) -> None:
        with pytest.raises(PermanentError, match="meaning"):
            opened.write(remote.id, samples.points(1, key=key), {})

    def test_a_note_cut_short_is_written_whole(self, opened: WandbSink, remote: Any, folder: Path) -> None:
        opened.write(remote.id, samples.points(3), {})
        note = sent.file_of(folder, remote.id)
        os.truncate(note, note.stat().st_size - 5)
        opened.write(remote.id, samples.points(4), {})
        # The one whose note was lost is the documented one that doubles.
        assert len(stored_points(folder, remote.id)) == 5
        opened.write(remote.id, samples.points(4), {})
        assert len(stored_points(folder, remote.id)) == 5

    def test_the_api_key_is_in_no_file_and_the_machine_is_not_described(
        self, opened: WandbSink, remote: Any, folder: Path
    ) -> None:
        opened.write(remote.id, samples.points(1), {"a": "b"})
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files
        assert not [file for file in files if KEY.encode() in file.read_bytes()]
        assert not [file for file in files if file.name in {"requirements.txt", "wandb-metadata.json"}]
        hosts = {record.run.host for _, record in records(folder, remote.id) if record.HasField("run")}
        assert hosts == {"metricwatch"}

    def test_a_library_that_dies_is_started_again(self, opened: WandbSink, remote: Any, folder: Path) -> None:
        opened.write(remote.id, samples.points(2), {})
        pid = opened._child.pid
        assert pid
        service = service_of(pid)
        os.kill(service, signal.SIGKILL)
        assert gone(service)
        with pytest.raises(TemporaryError):
            opened.write(remote.id, samples.points(3), {})
        opened.write(remote.id, samples.points(3), {})
        again = opened._child.pid
        assert again
        os.kill(again, signal.SIGKILL)
        # Until its last thread has ended it is not to be told from one that lives.
        opened._child._process.wait(10)
        opened.write(remote.id, samples.points(3), {})
        assert len(stored_points(folder, remote.id)) == 3

    def test_a_library_that_hangs_does_not_hold_up_the_lane(self, opened: WandbSink, remote: Any) -> None:
        opened.write(remote.id, samples.points(1), {})
        pid = opened._child.pid
        assert pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TemporaryError, match=r"no answer within 0\.2 s"):
            opened._child.ask({"do": "ping"}, seconds=0.2)
        assert gone(pid)

    def test_the_environment_of_a_training_job_is_not_taken_over(
        self, folder: Path, options: Any, monkeypatch: pytest.MonkeyPatch, by_name: Any
    ) -> None:
        for name, text in (("RUN_ID", "theirs"), ("MODE", "disabled"), ("PROJECT", "theirs"), ("SERVICE", "3-1-tcp")):
            monkeypatch.setenv(f"WANDB_{name}", text)
        sink = WandbSink(options)
        run_id = sink.find_run(by_name).id
        sink.write(run_id, samples.points(1), {})
        pid = sink._child.pid
        sink.close()
        (run,) = [record.run for _, record in records(folder, run_id) if record.HasField("run")]
        assert (run.run_id, run.project, run.display_name) == (run_id, "p", by_name.name)
        assert pid
        assert gone(pid)


def test_a_daemon_that_is_killed_leaves_no_process_and_its_repeat_doubles_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading, time; from pathlib import Path; from metricwatch_wandb import *;"
        "from metricwatch.api import Picture; from metricwatch.testing import samples;"
        "from metricwatch.testing.sink import _png\n"
        "def lane():\n"
        "    s = WandbSink(WandbOptions(project='p', mode='offline', directory=Path(sys.argv[1])))\n"
        "    r = s.find_run(samples.run()).id\n"
        "    s.write(r, samples.points(50), {'state': 'up'})\n"
        "    s.write_picture(r, Picture(key='quality/radar', step=5, timestamp_ms=7), _png(1))\n"
        "    (child,) = open(f'/proc/{s._child.pid}/task/{s._child.pid}/children').read().split()\n"
        "    print(r, s._child.pid, child, sorted({'torch', 'wandb', 'mlflow'} & set(sys.modules)), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=lane).start(); time.sleep(60)\n"
    )
    for _ in range(2):
        told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stderr) == (-9, "")
        run_id, library, service, imported = told.stdout.split(maxsplit=3)
        assert imported.strip() == "[]"
        assert gone(int(library))
        assert gone(int(service))
    assert sorted(stored_points(tmp_path, run_id), key=lambda point: point.step) == list(samples.points(50))
    assert stored_pictures(tmp_path, run_id) == [("quality/radar", 5, _png(1))]
    assert stored_tags(tmp_path, run_id) == {"state": "up"}


def test_without_a_login_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = (
            "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]))\n"
            "while True:\n"
            "    c = s.accept()[0]; c.recv(9999); c.sendall(b'HTTP/1.0 404 Not Found\\r\\n\\r\\n'); c.close()"
        )
        answering = subprocess.Popen([sys.executable, "-c", answer, str(server.fileno())], pass_fds=[server.fileno()])
        sink = WandbSink(
            WandbOptions(project="p", directory=tmp_path, base_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        )
        try:
            assert "answers" in sink.ping()
            with pytest.raises(TemporaryError, match="wandb login"):
                sink.find_run(samples.run())
        finally:
            sink.close()
            answering.kill()
            answering.wait()


@pytest.mark.parametrize("address", ["ftp://a", "https://user:word@a.example", "wandb.example.org"])
def test_an_address_that_cannot_be_one_or_holds_a_password_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="base_url") as raised:
        WandbOptions(project="p", directory=tmp_path, base_url=address)
    assert "word@" not in str(raised.value)


def test_a_log_with_a_record_over_several_blocks_is_read_as_it_grows(tmp_path: Path) -> None:
    head = b":W&B\xe1\xbe\x00"
    first = 32768 - 7 - 7
    data = bytes(range(256)) * 200
    chunks = [(2, data[:first]), (3, data[first : first + 100]), (4, data[first + 100 :])]
    whole = head + b"".join(bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part for kind, part in chunks)
    file = tmp_path / "a.wandb"
    log = TransactionLog(file)
    for end in (3, 7, 40, 32768, 32800, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert list(log.new()) == []
    file.write_bytes(whole)
    assert list(log.new()) == [data]
    assert list(log.new()) == []


def test_metricwatch_finds_it() -> None:
    assert catalog.load_sink("wandb") is WandbSink
