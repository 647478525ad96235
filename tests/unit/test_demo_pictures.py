"""The demo's data set and its scripted training: the same every time, and good enough to tell a story."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metricwatch.cli.demo import pictures
from metricwatch.cli.demo.generator import FEWEST_SAMPLE_SETS, breaking_step, restore, script
from metricwatch.errors import InputError


def _data_set(root: Path, *, seed: int = 0) -> dict[str, bytes]:
    pictures.write_data_set(root / "reference", root / "content", images=12, seed=seed)
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(root.glob("*/*.png"))}


def test_the_same_seed_gives_the_same_pictures(tmp_path: Path) -> None:
    assert _data_set(tmp_path / "a") == _data_set(tmp_path / "b")


def test_another_seed_gives_other_pictures(tmp_path: Path) -> None:
    one, other = _data_set(tmp_path / "a"), _data_set(tmp_path / "b", seed=1)
    assert not set(one.values()) & set(other.values())


def test_the_reference_and_the_content_share_photographs_but_no_crop(tmp_path: Path) -> None:
    made = _data_set(tmp_path)
    reference = {name: data for name, data in made.items() if name.startswith("reference/")}
    content = {name: data for name, data in made.items() if name.startswith("content/")}
    assert len(content) == 12
    assert len(reference) > 100
    assert not set(content.values()) & set(reference.values())
    assert {name.split("_", 1)[1] for name in content} == {name.split("_", 1)[1] for name in reference}


def test_a_crop_is_a_colour_picture_of_the_size_named(tmp_path: Path) -> None:
    _data_set(tmp_path)
    with Image.open(next((tmp_path / "content").glob("*.png"))) as image:
        assert image.mode == "RGB"
        assert image.size == (pictures.SIDE, pictures.SIDE)


def test_a_missing_photograph_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_PHOTOS", (("skimage", "data", "no_such_cat.png"),))
    with pytest.raises(InputError, match=r"no_such_cat\.png.*skimage.*metricwatch\[demo\]"):
        _data_set(tmp_path)


@pytest.mark.parametrize("sample_sets", [FEWEST_SAMPLE_SETS, 16, 30])
def test_training_improves_rests_breaks_and_recovers(sample_sets: int) -> None:
    skills = script(sample_sets)
    assert [skill.step for skill in skills] == [100 * (number + 1) for number in range(sample_sets)]
    learnt = [skill.learnt for skill in skills]
    breaks = next(number for number, skill in enumerate(skills) if skill.collapsed)
    plateau = learnt[breaks - 5 : breaks]
    assert learnt[: breaks - 5] == sorted(learnt[: breaks - 5])
    assert min(plateau) > 0.97
    assert not skills[-1].collapsed
    assert learnt[-1] > 0.97
    assert breaking_step(skills) == skills[breaks].step


def test_the_more_it_has_learnt_the_closer_the_copy_and_a_collapse_is_worst() -> None:
    noise = np.random.default_rng(0)
    picture = Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((128, 128))
    skills = script(16)
    target = np.asarray(picture, dtype=np.float64)
    errors = [
        float(np.abs(np.asarray(restore(picture, skill, np.random.default_rng(1))) - target).mean()) for skill in skills
    ]
    assert errors[:6] == sorted(errors[:6], reverse=True)
    assert max(errors[6:11]) < errors[5]
    assert min(errors[11:13]) > max(errors[:11])
