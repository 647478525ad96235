"""The sink keeps the contract of sinks, and comes through a crash in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from metricwatch_template_sink import TemplateSink, TemplateSinkOptions

from metricwatch import catalog
from metricwatch.api import PermanentError, Point
from metricwatch.testing import samples
from metricwatch.testing.sink import SinkContract


def read(folder: Path, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{run_id}.jsonl").read_text().splitlines()]


class TestTemplateSink(SinkContract):
    sink = TemplateSink

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "curves").mkdir()
        return tmp_path / "curves"

    @pytest.fixture
    def options(self, folder: Path) -> Any:
        return TemplateSinkOptions(uri=folder)

    @pytest.fixture
    def unreachable_options(self, tmp_path: Path) -> Any:
        return TemplateSinkOptions(uri=tmp_path / "not-mounted")

    @pytest.fixture
    def stored(self, folder: Path) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: [Point(**line) for line in read(folder, run_id) if "key" in line]

    @pytest.fixture
    def stored_tags(self, folder: Path) -> Callable[[str], Mapping[str, str]]:
        def merged(run_id: str) -> Mapping[str, str]:
            return {name: text for line in read(folder, run_id) for name, text in line.get("tags", {}).items()}

        return merged

    def test_a_line_cut_short_is_written_whole_by_the_repeat(self, options: Any, folder: Path) -> None:
        before = TemplateSink(options)
        run_id = before.find_run(samples.run()).id
        before.write(run_id, samples.points(5), {})
        file = folder / f"{run_id}.jsonl"
        whole = file.read_text()
        file.write_text(whole[:-7])
        for sink in (TemplateSink(options), before):
            sink.write(run_id, samples.points(5), {})
            assert file.read_text() == whole

    def test_repeated_tags_are_written_once(self, options: Any, folder: Path) -> None:
        for _ in range(2):
            sink = TemplateSink(options)
            run_id = sink.find_run(samples.run()).id
            for _ in range(2):
                sink.write(run_id, samples.points(1), {"state": "up"})
        assert len(read(folder, run_id)) == 3

    def test_a_file_that_is_something_else_is_left_alone(self, options: Any, folder: Path) -> None:
        sink = TemplateSink(options)
        run_id = sink.find_run(samples.run()).id
        (folder / f"{run_id}.jsonl").write_text("not JSON\n")
        with pytest.raises(PermanentError, match="damaged"):
            sink.write(run_id, samples.points(1), {})
        assert (folder / f"{run_id}.jsonl").read_text() == "not JSON\n"

    def test_a_tag_that_changes_back_is_written_again(self, options: Any, stored_tags: Any) -> None:
        sink = TemplateSink(options)
        run_id = sink.find_run(samples.run()).id
        for text in ("up", "down", "up"):
            sink.write(run_id, [], {"state": text})
        assert stored_tags(run_id) == {"state": "up"}


def test_metricwatch_finds_it() -> None:
    assert catalog.load_sink("template_sink") is TemplateSink
