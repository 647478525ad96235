"""Kill anything, any time: nothing is lost, nothing is done twice, nobody is told twice without need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.kills.series import run_series


@pytest.mark.slow
def test_a_run_under_kills_leaves_the_history_of_one_that_was_let_be(tmp_path: Path, full_size: bool, seed: int):
    campaigns, each = (40, 25) if full_size else (2, 15)
    report = run_series(range(campaigns), each=each, seed=seed, folder=tmp_path, parallel=2)
    shown = json.dumps(report.document(), indent=2)
    print(shown)
    again = f"python -m tests.chaos.kills --seed {seed} --each {each} --campaign N; what they left is in {tmp_path}"
    assert not report.wrong, f"{shown}\nrun one again: {again}"
    assert report.kills >= campaigns * each
    assert not full_size or not report.never_killed_at
