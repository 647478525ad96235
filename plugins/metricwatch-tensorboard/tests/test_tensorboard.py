"""The sink keeps the contract of sinks, as TensorBoard itself reads what it wrote, and comes through crashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from metricwatch_tensorboard import TensorBoardOptions, TensorBoardSink
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.util import tensor_util

from metricwatch import catalog
from metricwatch.api import PermanentError, Picture, Point, TemporaryError
from metricwatch.testing import samples
from metricwatch.testing.sink import SinkContract, _png

FILE = "events.out.tfevents.0000000000.metricwatch"


def values(folder: Path, run_id: str) -> Iterator[tuple[Any, Any]]:
    """Every event with its value, by TensorBoard's own reader of files."""
    if (folder / run_id / FILE).exists():
        for event in LegacyEventFileLoader(str(folder / run_id / FILE)).Load():
            for value in event.summary.value:
                yield event, value


def stored_points(folder: Path, run_id: str) -> list[Point]:
    return [
        Point(
            key=value.tag,
            value=float(tensor_util.make_ndarray(value.tensor).item()),
            timestamp_ms=round(event.wall_time * 1000),
            step=event.step,
        )
        for event, value in values(folder, run_id)
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]


class TestTensorBoardSink(SinkContract):
    sink = TensorBoardSink

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "board"

    @pytest.fixture
    def options(self, folder: Path) -> Any:
        return TensorBoardOptions(directory=folder)

    @pytest.fixture
    def unreachable_options(self, tmp_path: Path) -> Any:
        return TensorBoardOptions(directory=tmp_path / "not-mounted" / "board")

    @pytest.fixture
    def stored(self, folder: Path) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: stored_points(folder, run_id)

    @pytest.fixture
    def stored_tags(self, folder: Path) -> Callable[[str], Mapping[str, str]]:
        return lambda run_id: {
            value.tag: value.tensor.string_val[0].decode()
            for _, value in values(folder, run_id)
            if value.metadata.plugin_data.plugin_name == "text"
        }

    @pytest.fixture
    def stored_pictures(self, folder: Path) -> Callable[[str], Sequence[tuple[str, int, bytes]]]:
        return lambda run_id: [
            (value.tag, event.step, value.image.encoded_image_string)
            for event, value in values(folder, run_id)
            if value.HasField("image")
        ]

    @pytest.fixture
    def delete_run(self, folder: Path) -> Callable[[str], None]:
        return lambda run_id: shutil.rmtree(folder / run_id)

    @pytest.mark.parametrize("cut", [1, 7, 30])
    def test_a_record_cut_short_is_written_whole_by_the_repeat(self, options: Any, folder: Path, cut: int) -> None:
        before = TensorBoardSink(options)
        run_id = before.find_run(samples.run()).id
        before.write(run_id, samples.points(5), {})
        file = folder / run_id / FILE
        whole = file.read_bytes()
        file.write_bytes(whole[:-cut])
        for sink in (TensorBoardSink(options), before):
            sink.write(run_id, samples.points(5), {})
            assert file.read_bytes() == whole

    def test_tensorboard_shows_curves_and_pictures(self, options: Any, folder: Path) -> None:
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run(name="night run")).id
        sink.write(run_id, samples.points(3), {"metricwatch.best.fid": "step 3,000"})
        sink.write_picture(run_id, Picture(key="quality/radar", step=3000, timestamp_ms=1_760_000_000_000), _png(1))
        shown = EventAccumulator(str(folder / run_id)).Reload()
        tags = shown.Tags()
        assert {*tags["tensors"], *tags["images"]} == {"quality/fid", "metricwatch.best.fid", "quality/radar"}
        assert [event.step for event in shown.Tensors("quality/fid")] == [1000, 2000, 3000]

    def test_a_crash_between_the_write_and_its_note_doubles_nothing(self, options: Any, folder: Path) -> None:
        code = (
            "import os, signal, sys; from pathlib import Path; from metricwatch_tensorboard import *;"
            "from metricwatch.testing import samples;"
            "s = TensorBoardSink(TensorBoardOptions(directory=Path(sys.argv[1]))); r = s.find_run(samples.run()).id;"
            "s.write(r, samples.points(50), {'state': 'up'}); os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == -9
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run()).id
        size = (folder / run_id / FILE).stat().st_size
        sink.write(run_id, samples.points(50), {"state": "up"})
        assert (folder / run_id / FILE).stat().st_size == size
        assert len(stored_points(folder, run_id)) == 50

    def test_of_a_long_file_only_the_end_is_remembered(self, options: Any, folder: Path) -> None:
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run()).id
        many = samples.points(4000)
        for start in range(0, len(many), 1000):
            sink.write(run_id, many[start : start + 1000], {})
        other = TensorBoardSink(options)
        other.write(run_id, many[-1000:], {})
        assert len(other._tails[run_id].known) == 2500
        assert len(stored_points(folder, run_id)) == 4000

    def test_a_file_that_is_something_else_is_left_alone(self, options: Any, folder: Path) -> None:
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run()).id
        (folder / run_id / FILE).write_bytes(b"not a record, and long enough to be taken for one")
        with pytest.raises(PermanentError, match="damaged"):
            sink.write(run_id, samples.points(1), {})

    def test_a_full_disk_leaves_nothing_half_written(self, options: Any, folder: Path) -> None:
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run()).id
        sink.write(run_id, samples.points(3), {})
        file = folder / run_id / FILE
        whole = file.read_bytes()
        code = (
            "import resource, signal, sys; from pathlib import Path; from metricwatch_tensorboard import *;"
            "from metricwatch.testing import samples; from metricwatch.api import TemporaryError;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "s = TensorBoardSink(TensorBoardOptions(directory=Path(sys.argv[1])));"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY));\n"
            "try: s.write(sys.argv[2], samples.points(50), {})\n"
            "except TemporaryError as error: print(error)\n"
        )
        told = subprocess.run(
            [sys.executable, "-c", code, str(folder), run_id, str(len(whole) + 300)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "cannot be written: File too large" in told.stdout
        assert file.read_bytes() == whole

    def test_a_folder_that_cannot_be_written_can_be_waited_for(self, options: Any, folder: Path) -> None:
        folder.write_text("a file where the folder should be")
        with pytest.raises(TemporaryError, match="no folder"):
            TensorBoardSink(options).ping()

    def test_a_pipe_in_the_place_of_the_file_does_not_block(self, options: Any, folder: Path) -> None:
        sink = TensorBoardSink(options)
        run_id = sink.find_run(samples.run()).id
        os.mkfifo(folder / run_id / FILE)
        with pytest.raises((TemporaryError, PermanentError)):
            sink.write(run_id, samples.points(1), {})


def test_metricwatch_finds_it_and_it_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from metricwatch import catalog; from metricwatch.testing import samples;"
        "S = catalog.load_sink('tensorboard'); s = S(S.Options(directory=Path(sys.argv[1])));"
        "s.write(s.find_run(samples.run()).id, samples.points(1), {});"
        "print(sorted({'torch', 'tensorflow', 'mlflow', 'grpc'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True).strip() == "[]"
    assert catalog.load_sink("tensorboard") is TensorBoardSink
