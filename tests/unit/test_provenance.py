"""What a score depends on: compared, told, and made visible where the curves are."""

from __future__ import annotations

import pytest

from metricwatch.records import Evaluation, Score, ScoreState
from metricwatch.rules.comparable import obstacle
from metricwatch.rules.observations import Observation
from metricwatch.store.provenance import changes, describe_changes, pairs_changed, shorten, telling
from metricwatch.supervisor.exchange import Before, series_changes, tags_of

DIGEST_A, DIGEST_B = "a1" * 20, "b2" * 20
PROVENANCE = {
    "extractor": "inception-v3",
    "extractor_digest": "c3" * 20,
    "protocol": "pytorch-fid",
    "precision": "exact",
    "reference_digest": DIGEST_A,
    "engine": "eager",
    "device": "cpu",
    "torch": "2.6.0",
    "metricwatch": "1.0",
    "names_digest": "n1",
    "pairs_digest": "p1",
}


def test_what_changed_is_named_with_both_values():
    after = {**PROVENANCE, "reference_digest": DIGEST_B, "protocol": "clean", "device": "cuda", "torch": "2.7"}
    assert changes(PROVENANCE, after) == {
        "protocol": ("pytorch-fid", "clean"),
        "reference_digest": (DIGEST_A, DIGEST_B),
    }
    assert describe_changes(PROVENANCE, after) == (
        "protocol changed from pytorch-fid to clean, reference_digest changed from a1a1a1a1… to b2b2b2b2…"
    )


def test_what_came_or_went_changed_from_or_to_nothing():
    assert describe_changes({}, {"options": '{"k":3}'}) == 'options changed from nothing to {"k":3}'
    assert describe_changes({"options": "x"}, {}) == "options changed from x to nothing"


def test_values_that_look_the_same_in_short_are_shown_whole():
    before, after = "a" * 11 + "1" * 9, "a" * 11 + "2" * 9
    assert describe_changes({"x": before}, {"x": after}) == f"x changed from {before} to {after}"


def test_machine_software_and_image_names_make_no_series():
    assert list(telling(PROVENANCE)) == ["extractor", "extractor_digest", "precision", "protocol", "reference_digest"]
    assert list(telling({"fid.protocol": "x", "fid.names_digest": "y", "fid.torch": "2"})) == ["fid.protocol"]


def test_long_values_are_shortened():
    assert shorten(f"{DIGEST_A},{DIGEST_B}") == "a1a1a1a1…,b2b2b2b2…"
    assert len(shorten("x y " * 100)) == 60


@pytest.mark.parametrize(
    ("names", "pairs", "changed"), [("n1", "p2", True), ("n2", "p2", False), ("n1", "p1", False), ("n2", "p1", False)]
)
def test_partners_have_changed_when_the_same_images_have_others(names, pairs, changed):
    after = {**PROVENANCE, "names_digest": names, "pairs_digest": pairs}
    assert pairs_changed(PROVENANCE, after) is changed
    of_composite = [{f"ssim.{key}": value for key, value in each.items()} for each in (PROVENANCE, after)]
    assert pairs_changed(*of_composite) is changed
    assert not pairs_changed({}, after)


def observed(step: int, *, series: str = "a", images: int = 100, **provenance: str) -> Observation:
    return Observation(
        id=step,
        step=step,
        value=1.0,
        images=images,
        higher_is_better=False,
        series=series,
        provenance={**PROVENANCE, **provenance},
    )


def test_the_obstacle_to_a_comparison_is_named():
    first = observed(1)
    assert obstacle([], first) == ""
    assert obstacle([first], observed(2, names_digest="n2", pairs_digest="p2")) == ""
    assert obstacle([first], observed(2, pairs_digest="p2")) == "its content, style or prompt partners have changed"
    assert obstacle([first], observed(2, series="b", reference_digest=DIGEST_B)) == (
        "reference_digest changed from a1a1a1a1… to b2b2b2b2…"
    )
    assert obstacle([first], observed(2, series="b")) == "what the score depends on has changed"
    assert obstacle([first], observed(2, images=90)) == "90 images after 100"


def test_partners_are_compared_with_every_evaluation_of_the_window():
    other_images = observed(2, names_digest="n2", pairs_digest="p9")
    assert "partners" in obstacle([observed(1), other_images], observed(3, pairs_digest="p2"))


# --- tags --------------------------------------------------------------------------------------------------


def score(
    value: float | None = 1.0, *, key: str = "fid", series: str = "a", detail: str = "", **provenance: str
) -> Score:
    return Score(
        key=key,
        value=value,
        images=64,
        higher_is_better=False,
        series=series,
        state=ScoreState.OK if value is not None else ScoreState.COLLAPSED,
        detail=detail,
        provenance={**PROVENANCE, **provenance},
    )


def tags(now: Score, last: Score | None = None, valued: Score | None = None, step: int = 500) -> dict[str, str]:
    valued = last if last is not None and last.value is not None else valued
    return tags_of(evaluation(now), {now.key: Before(any=last, with_value=valued)}, step)


def evaluation(*scores: Score) -> Evaluation:
    return Evaluation(scores=scores, skipped=(), images=64, seconds=1.0, provenance={})


def test_the_first_value_says_what_it_depends_on():
    assert tags(score()) == {
        "metricwatch.series.fid": (
            "since step 500: extractor=inception-v3, extractor_digest=c3c3c3c3…, precision=exact, "
            "protocol=pytorch-fid, reference_digest=a1a1a1a1…, pairs_digest=p1"
        )
    }


def test_while_nothing_changes_nothing_is_said():
    assert tags(score(), score()) == {}
    assert tags(score(None, detail="x"), score(None, detail="x"), score()) == {}


def test_other_partners_for_the_same_images_are_said_like_a_new_series():
    now = score(pairs_digest="p2")
    assert "pairs_digest=p2" in tags(now, score())["metricwatch.series.fid"]
    before = {now.key: Before(any=score(), with_value=score())}
    assert list(series_changes(evaluation(now), before)) == [("fid", "pairs_digest changed from p1 to p2")]
    assert tags(score(names_digest="n2", pairs_digest="p2"), score()) == {}


def test_a_new_series_is_said():
    now = score(series="b", reference_digest=DIGEST_B)
    assert list(tags(now, score())) == ["metricwatch.series.fid"]
    assert "reference_digest=b2b2b2b2…" in tags(now, score())["metricwatch.series.fid"]
    assert list(series_changes(evaluation(now), {"fid": Before(any=score(), with_value=score())})) == [
        ("fid", "reference_digest changed from a1a1a1a1… to b2b2b2b2…")
    ]


def test_a_score_without_a_value_says_why_and_ends_no_series():
    missing = score(None, series="none", detail="all 64 images\nare the same")
    assert tags(missing, score()) == {"metricwatch.state.fid": "collapsed: all 64 images are the same"}
    assert tags(score(), missing, score()) == {"metricwatch.state.fid": "ok"}
    assert list(series_changes(evaluation(score()), {"fid": Before(any=missing, with_value=score())})) == []


def test_a_change_while_there_was_no_value_is_said_with_the_next_value():
    found = tags(score(series="b"), score(None), score())
    assert list(found) == ["metricwatch.state.fid", "metricwatch.series.fid"]


def test_keys_that_have_a_newer_step_say_nothing():
    assert tags_of(evaluation(score(None), score(series="b")), {}, 500) == {}


def test_tags_keep_to_mlflows_limits():
    from mlflow.utils.validation import _validate_tag

    wild = score(None, key="a/b=c?" + "x" * 300, detail="y" * 9000)
    valued = score(1.0, key="a/b=c?" + "x" * 300, options="z " * 5000)
    for found in (tags(wild), tags(valued)):
        ((key, value),) = found.items()
        _validate_tag(key, value)
        assert len(value) < 500
