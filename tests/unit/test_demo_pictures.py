"""The demo's data set and its plan: the same every time."""

from pathlib import Path

import pytest
from PIL import Image

from metricwatch.cli.demo import pictures
from metricwatch.cli.demo.play import FEWEST_CHECKPOINTS, Play
from metricwatch.errors import InputError


def _data_set(root: Path, *, seed: int = 0) -> dict[str, bytes]:
    names = ("training", "content", "style", "reference")
    pictures.write_data_set(pictures.DataSet(**{name: root / name for name in names}), contents=6, seed=seed)
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(root.glob("*/*.png"))}


def test_the_same_seed_gives_the_same_pictures(tmp_path: Path) -> None:
    assert _data_set(tmp_path / "a") == _data_set(tmp_path / "b")


def test_another_seed_gives_other_crops_of_the_same_photographs(tmp_path: Path) -> None:
    one, other = _data_set(tmp_path / "a"), _data_set(tmp_path / "b", seed=1)
    same = {name for name in one if one[name] == other[name]}
    assert same == {name for name in one if name.startswith("training/")}


def test_contents_styles_and_reference_are_there_and_no_stem_pairs_a_content_with_one_style(tmp_path: Path) -> None:
    made = _data_set(tmp_path)
    stems = {kind: {Path(name).stem for name in made if name.startswith(f"{kind}/")} for kind in ("content", "style")}
    assert len(stems["content"]) == 6
    assert len(stems["style"]) == 2
    assert not stems["content"] & stems["style"]
    assert sum(name.startswith("reference/") for name in made) > 100


def test_a_crop_is_a_colour_picture_of_the_size_named(tmp_path: Path) -> None:
    _data_set(tmp_path)
    with Image.open(next((tmp_path / "content").glob("*.png"))) as image:
        assert image.mode == "RGB"
        assert image.size == (pictures.SIDE, pictures.SIDE)


def test_a_missing_photograph_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_PHOTOS", (("skimage", "data", "no_such_cat.png"),))
    with pytest.raises(InputError, match=r"no_such_cat\.png.*skimage.*metricwatch\[demo\]"):
        _data_set(tmp_path)


@pytest.mark.parametrize("checkpoints", [FEWEST_CHECKPOINTS, 16, 30])
def test_the_accident_happens_late_just_after_a_checkpoint_and_shows_in_the_next(checkpoints: int) -> None:
    play = Play(checkpoints=checkpoints, save_every=20, contents=5, seconds=0.0, seed=0)
    sound = [step for step in play.steps if step < play.accident_at]
    assert len(play.steps) == checkpoints
    assert play.accident_at == sound[-1] + 1
    assert play.breaks_at == play.steps[len(sound)]
    assert len(sound) >= 5
    assert len(play.steps) - len(sound) >= 2
