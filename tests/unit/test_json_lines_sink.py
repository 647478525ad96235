"""The JSON lines sink keeps the contract of sinks, comes through crashes, and holds no more than the end of a file."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metricwatch import catalog
from metricwatch.api import PermanentError, Point, TemporaryError
from metricwatch.testing import samples
from metricwatch.testing.sink import SinkContract

JsonLinesSink = catalog.load_sink("json_lines")


def read(folder: Path, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{run_id}.jsonl").read_text().splitlines()]


def stored_points(folder: Path, run_id: str) -> list[Point]:
    lines = [line for line in read(folder, run_id) if "key" in line]
    return [Point(**{name: value for name, value in line.items() if name != "run"}) for line in lines]


class TestJsonLinesSink(SinkContract):
    sink = JsonLinesSink

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "curves"

    @pytest.fixture
    def options(self, folder: Path) -> Any:
        return JsonLinesSink.Options(directory=folder)

    @pytest.fixture
    def unreachable_options(self, tmp_path: Path) -> Any:
        return JsonLinesSink.Options(directory=tmp_path / "not-mounted" / "curves")

    @pytest.fixture
    def stored(self, folder: Path) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: stored_points(folder, run_id)

    @pytest.fixture
    def stored_tags(self, folder: Path) -> Callable[[str], Mapping[str, str]]:
        return lambda run_id: {
            name: text for line in read(folder, run_id) for name, text in line.get("tags", {}).items()
        }

    def test_a_line_cut_short_is_written_whole_by_the_repeat(self, options: Any, folder: Path) -> None:
        before = JsonLinesSink(options)
        run_id = before.find_run(samples.run()).id
        before.write(run_id, samples.points(5), {})
        file = folder / f"{run_id}.jsonl"
        whole = file.read_text()
        file.write_text(whole[:-7])
        for sink in (JsonLinesSink(options), before):
            sink.write(run_id, samples.points(5), {})
            assert file.read_text() == whole

    def test_every_line_says_whose_it_is(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run(name="schöne 画像")).id
        sink.write(run_id, samples.points(2), {"state": "up"})
        other = JsonLinesSink(options)
        other.write(run_id, samples.points(3), {"state": "down"})
        assert {line["run"] for line in read(folder, run_id)} == {"schöne 画像"}

    def test_a_file_that_was_moved_away_is_begun_anew(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        sink.write(run_id, samples.points(3), {})
        (folder / f"{run_id}.jsonl").rename(folder / "old.jsonl")
        sink.write(run_id, samples.points(5)[3:], {})
        assert [point.step for point in stored_points(folder, run_id)] == [4000, 5000]

    def test_a_tag_that_changes_back_is_written_again_and_one_that_stays_is_not(
        self, options: Any, folder: Path
    ) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        for text in ("up", "up", "down", "up"):
            sink.write(run_id, [], {"state": text})
        assert [line["tags"]["state"] for line in read(folder, run_id) if "tags" in line] == ["up", "down", "up"]

    def test_a_file_that_is_something_else_is_left_alone(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        for content in ("not JSON\n", "[1]\n", '{"other": 1}\n'):
            (folder / f"{run_id}.jsonl").write_text(content)
            with pytest.raises(PermanentError, match="damaged"):
                sink.write(run_id, samples.points(1), {})
            assert (folder / f"{run_id}.jsonl").read_text() == content

    def test_of_a_long_file_only_the_end_is_read_and_nothing_is_doubled(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        many = samples.points(60_000)
        for start in range(0, len(many), 1000):
            sink.write(run_id, many[start : start + 1000], {})
        size = (folder / f"{run_id}.jsonl").stat().st_size
        assert size > 4_000_000
        other = JsonLinesSink(options)
        other.write(run_id, many[-1000:], {})
        assert (folder / f"{run_id}.jsonl").stat().st_size == size
        assert len(other._tails[run_id].lines) <= 8000

    def test_a_full_disk_leaves_nothing_half_written(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        sink.write(run_id, samples.points(3), {})
        file = folder / f"{run_id}.jsonl"
        whole = file.read_text()
        # A limit on the size of files fails as a disk does that fills up: a part is written.
        code = (
            "import resource, signal, sys; from pathlib import Path; from metricwatch import catalog;"
            "from metricwatch.testing import samples; from metricwatch.api import TemporaryError;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "S = catalog.load_sink('json_lines'); s = S(S.Options(directory=Path(sys.argv[1])));"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY));\n"
            "try: s.write(sys.argv[2], samples.points(50), {})\n"
            "except TemporaryError as error: print(error)\n"
        )
        limit = str(file.stat().st_size + 500)
        told = subprocess.run(
            [sys.executable, "-c", code, str(folder), run_id, limit], capture_output=True, text=True, check=True
        )
        assert "cannot be written: File too large" in told.stdout
        assert file.read_text() == whole
        sink.write(run_id, samples.points(50), {})
        assert len(stored_points(folder, run_id)) == 50

    def test_a_file_that_another_is_writing_to_can_be_waited_for(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        with (folder / f"{run_id}.jsonl").open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(TemporaryError, match="cannot be written"):
                sink.write(run_id, samples.points(1), {})
        sink.write(run_id, samples.points(1), {})
        assert len(stored_points(folder, run_id)) == 1

    def test_a_folder_that_cannot_be_written_can_be_waited_for(self, options: Any, folder: Path) -> None:
        folder.write_text("a file where the folder should be")
        with pytest.raises(TemporaryError, match="no folder"):
            JsonLinesSink(options).ping()

    def test_a_pipe_in_the_place_of_the_file_does_not_block(self, options: Any, folder: Path) -> None:
        sink = JsonLinesSink(options)
        run_id = sink.find_run(samples.run()).id
        file = folder / f"{run_id}.jsonl"
        file.unlink()
        os.mkfifo(file)
        with pytest.raises((TemporaryError, PermanentError)):
            sink.write(run_id, samples.points(1), {})


def test_the_sink_needs_no_library() -> None:
    code = (
        "import sys; from metricwatch import catalog; catalog.load_sink('json_lines'); print('mlflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
