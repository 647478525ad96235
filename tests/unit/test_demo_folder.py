"""The demo deletes what an earlier demo left, and nothing else."""

from pathlib import Path

import pytest

from metricwatch.cli.demo.folder import MARKER, demo_folder
from metricwatch.errors import InputError


def test_a_new_folder_is_made_with_a_marker_in_it(tmp_path: Path) -> None:
    with demo_folder(tmp_path / "deep" / "demo") as folder:
        assert (folder.root / MARKER).is_file()


def test_an_earlier_demo_is_deleted(tmp_path: Path) -> None:
    with demo_folder(tmp_path / "demo") as folder:
        (folder.root / "runs" / "old").mkdir(parents=True)
        (folder.root / "mlflow.db").touch()
    with demo_folder(tmp_path / "demo") as folder:
        assert {path.name for path in folder.root.iterdir()} == {MARKER, "logs"}


def test_a_link_in_it_is_removed_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all of it")
    with demo_folder(tmp_path / "demo") as folder:
        (folder.root / "link").symlink_to(precious)
    with demo_folder(tmp_path / "demo") as folder:
        assert not (folder.root / "link").exists()
    assert (precious / "thesis.txt").read_text() == "all of it"


def test_a_folder_of_anything_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="not a folder of an earlier demo"), demo_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    with pytest.raises(InputError, match="is a file"), demo_folder(tmp_path / "demo"):
        pass


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        demo_folder(tmp_path / "demo") as folder,
        pytest.raises(InputError, match="another demo is running"),
        demo_folder(tmp_path / "demo"),
    ):
        pass
    assert (folder.root / "logs").is_dir()
