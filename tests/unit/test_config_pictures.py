"""The section `pictures` of metricwatch.yaml."""

from __future__ import annotations

import pytest
import yaml

from metricwatch.config.loader import load_config
from metricwatch.config.pictures import NO_PICTURES, PicturesConfig
from metricwatch.errors import ConfigError

BASE = {
    "tracking": {"uri": "http://127.0.0.1:1"},
    "watch": [{"run": {"name": "night"}, "samples": "samples/*"}],
    "metrics": ["ssim"],
}


@pytest.fixture
def read(tmp_path):
    def read(text="", **environ):
        file = tmp_path / "metricwatch.yaml"
        file.write_text(yaml.safe_dump(BASE) + text)
        return load_config(file, environ=environ).pictures

    return read


def test_without_a_word_there_are_pictures_of_every_evaluation(read):
    assert read() == PicturesConfig(samples=16, compared=4, neighbours=4, heat="auto", radar=True, every=1)


@pytest.mark.parametrize("word", ["off", "false", "no"])
def test_one_word_switches_all_of_them_off(read, word):
    assert read(f"pictures: {word}") == NO_PICTURES


def test_an_override_switches_them_off_as_well(read):
    assert read(METRICWATCH_PICTURES="false") == NO_PICTURES


def test_on_means_the_defaults(read):
    assert read("pictures: on") == PicturesConfig()


@pytest.mark.parametrize(("written", "heat"), [("ssim", "ssim"), ("none", "none"), ("off", "none"), ("auto", "auto")])
def test_the_heat_is_a_metrics_or_nobodys(read, written, heat):
    assert read(f"pictures: {{heat: {written}}}").heat == heat


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{heat: lpisp}", r"pictures\.heat: unknown metric 'lpisp'; did you mean 'lpips'\?"),
        ("{heat: atuo}", "did you mean 'auto'"),
        ("{samples: 65}", r"pictures\.samples"),
        ("{compared: 17}", r"pictures\.compared"),
        ("{neighbours: -1}", r"pictures\.neighbours"),
        ("{every: 0}", r"pictures\.every"),
        ("{sample: 3}", r"pictures\.sample: .*samples"),
        ("everything", "pictures"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(read, written, message):
    with pytest.raises(ConfigError, match=message):
        read(f"pictures: {written}")
