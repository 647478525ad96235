"""What the demo demands of the curve in MLflow, and how it reads it."""

from datetime import UTC, datetime
from typing import Any

from metricwatch.cli.demo.curve import curve, gaps, missing_pictures
from metricwatch.cli.demo.messages import Message
from metricwatch.cli.demo.tracking import History

STEPS = [100, 200, 300]


def _history(**changed: list[tuple[int, float]]) -> History:
    steps = (100, 200, 300)
    return {
        "distance": [(step, 40.0 - step / 100) for step in steps],
        "distance_stderr": [(step, 0.5) for step in steps],
        "similarity": [(step, step / 1000) for step in steps],
        "perceptual": [(step, 0.5) for step in steps],
        "style": [(step, 2e-4) for step in steps],
        "composite": [(step, 0.6) for step in steps],
        "firing": [(100, 0.0), (200, 1.0), (300, 1.0)],
        **changed,
    }


def _fired(step: int, direction: str, **changed: Any) -> Message:
    fields: dict[str, Any] = {
        "channel": "Slack",
        "received_at": datetime(2026, 1, 2, tzinfo=UTC),
        "title": "",
        "text": "",
        "kind": "critical" if direction == "worse" else "info",
        "direction": direction,
        "severity": "",
        "step": step,
    }
    return Message(**fields | changed)


def test_a_whole_curve_has_no_gaps() -> None:
    assert not list(gaps(_history(), STEPS, sound=STEPS))


def test_a_step_that_is_missing_is_named_with_its_curve() -> None:
    found = list(gaps(_history(similarity=[(100, 0.1)]), STEPS, sound=STEPS))
    assert found == ["the curve quality/ssim in MLflow lacks steps 200, 300"]


def test_a_step_that_was_logged_twice_is_named() -> None:
    found = list(gaps(_history(distance_stderr=[(100, 0.5), (200, 0.5), (200, 0.5), (300, 0.5)]), STEPS, sound=STEPS))
    assert found == ["the curve quality/fd_efficientnet_lite0_stderr in MLflow holds more than once step 200"]


def test_a_step_that_nobody_sampled_is_named() -> None:
    found = list(gaps(_history(), [100, 200], sound=[100, 200]))
    assert len(found) == 7
    assert all("nothing was saved there, step 300" in problem for problem in found)


def test_the_direction_of_a_firing_rule_comes_from_the_latest_alert() -> None:
    messages = [_fired(200, "better"), _fired(300, "worse"), _fired(300, "worse", kind="resolved")]
    assert [point.rule for point in curve(_history(), messages)] == ["inactive", "firing (better)", "firing (worse)"]


def test_a_step_without_a_partner_score_is_shown_without_it() -> None:
    points = curve(_history(similarity=[(100, 0.1)], firing=[]), [])
    assert [point.similarity for point in points] == [0.1, None, None]
    assert [point.rule for point in points] == ["", "", ""]


def test_a_broken_model_has_no_distance_and_that_is_no_gap() -> None:
    history = _history(distance=[(100, 39.0), (200, 38.0)], distance_stderr=[(100, 0.5), (200, 0.5)])
    assert not list(gaps(history, STEPS, sound=[100, 200]))
    (broken,) = (point for point in curve(history, []) if point.step == 300)
    assert broken.distance is None


def test_steps_whose_samples_cannot_be_looked_at_are_named() -> None:
    assert not list(missing_pictures({100: 4, 200: 4, 300: 4}, STEPS, 4))
    (told,) = missing_pictures({100: 4, 200: 3}, STEPS, 4)
    assert told.endswith("another number of steps 200 (3), 300 (0)")
