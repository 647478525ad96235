"""Which step a name on disk means."""

from __future__ import annotations

import pytest

from metricwatch.watch.layouts import step_by, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("1000", 1000),
        ("step_001000", 1000),
        ("step-1000", 1000),
        ("Step=1000", 1000),
        ("epoch=3-step=1000", 1000),
        ("step=1000-epoch=3", 1000),
        ("iter_500", 500),
        ("iteration500", 500),
        ("global_step1000", 1000),
        ("run2_001000", 1000),
        ("epoch_12", 12),
        ("latest", None),
    ],
)
def test_a_directory_name_gives_its_step(name, step):
    assert step_of(name, True) == step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("001000.png", 1000),
        ("001000_03.png", 1000),
        ("fakes001000.png", 1000),
        ("sample_3_step_1000.png", 1000),
        ("grid.png", None),
    ],
)
def test_a_file_name_gives_its_step_and_not_its_index(name, step):
    assert step_of(name, False) == step


def test_the_users_own_pattern_wins():
    find = step_by(r"k(?P<step>\d+)")
    assert find("run3_k250_x", True) == 250
    assert find("run3", True) is None
