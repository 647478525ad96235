"""for, warmup and keep_firing: how a condition that holds becomes an alert, and how an alert ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.records import AlertState, ScoreState
from metricwatch.rules.comparable import obstacle
from metricwatch.rules.judgements import Clear, Holds, Judge, Unknown
from metricwatch.rules.lifecycle import Lifecycle
from metricwatch.rules.moves import movement
from metricwatch.rules.states import evaluate
from tests.support.judging import episodes, rule, series, short

SAID = {
    "w": Holds(direction="worse", what="is bad"),
    "b": Holds(direction="better", what="is good"),
    ".": Clear(note="calm"),
    "?": Unknown(note="dark"),
}


class Script(Judge):
    """Says what is written down, one character an evaluation."""

    def __init__(self, text) -> None:
        self.text = iter(text)

    def look(self, item):
        return SAID[next(self.text)]


def live(text, **options):
    """The states over what the judge says: i, p, w or b."""
    life = Lifecycle(Script(text), **{"in_a_row": 1, "warmup": 0, "keep_firing": 0, **options})
    count = len(text) + options.get("warmup", 0)
    return [life.next(item) for item in series(*[1.0] * count)]


@pytest.mark.parametrize(
    ("options", "said", "states"),
    [
        ({}, "..ww..", "iiwwii"),
        ({}, "w?w??.", "wwwwwi"),
        ({}, "wbwb.", "wbwbi"),
        ({}, "?.?", "iii"),
        ({"in_a_row": 3}, "ww.www.", "ppippwi"),
        # What nobody can tell is no evaluation in a row.
        ({"in_a_row": 2}, "w?ww", "pipw"),
        # Once it fires, every evaluation that agrees keeps it.
        ({"in_a_row": 2}, "ww?w?ww.", "pwwwwwwi"),
        # Two ways in turn are no way in a row.
        ({"in_a_row": 2}, "wbwbb", "ppppb"),
        ({"in_a_row": 2}, "wwbb", "pwpb"),
        ({"in_a_row": 2, "keep_firing": 1}, "wwbb", "pwwb"),
        ({"in_a_row": 3, "keep_firing": 1}, "wwwbbb", "ppwwpb"),
        ({"keep_firing": 2}, "w..w...", "wwwwwwi"),
        ({"keep_firing": 2}, "w.?.?.w", "wwwwwiw"),
        ({"keep_firing": 9}, "w.b.", "wwbb"),
        ({"in_a_row": 2, "keep_firing": 1}, "ww.w.", "pwwww"),
        ({"in_a_row": 2, "keep_firing": 1}, "ww..w", "pwwip"),
    ],
)
def test_what_is_said_becomes_a_state(options, said, states):
    assert short(live(said, **options)) == states


def test_the_first_evaluations_are_not_shown_to_the_judge():
    states = live("w.", warmup=3)
    assert short(states) == "iiiwi"
    assert [state.note for state in states[:3]] == ["warming up: 1 of 3", "warming up: 2 of 3", "warming up: 3 of 3"]


def test_evaluations_without_a_value_are_warmed_up_with_as_well():
    assert short(evaluate(rule(state="any", warmup=2), series(None, None, None))) == "iiw"
    assert short(evaluate(rule(moves=0.1, across=2, warmup=2), series(None, 10, 10, 20))) == "iiiw"


def test_the_notes_say_how_far_it_is():
    states = live("www.?.", in_a_row=3, keep_firing=3)
    assert [state.note for state in states] == [
        "1 of 3 in a row",
        "2 of 3 in a row",
        "",
        "kept firing, 1 of 3; calm",
        "still firing; dark",
        "kept firing, 2 of 3; calm",
    ]
    assert live("wwb", in_a_row=2, keep_firing=1)[-1].note == "kept firing, 1 of 1; for the better: 1 of 2 in a row"


def test_pending_names_its_direction_and_firing_keeps_what_was_seen_last():
    pending, first, kept = live("ww.", in_a_row=2, keep_firing=1)
    assert (pending.direction, pending.state) == ("worse", AlertState.PENDING)
    assert (kept.what, kept.direction, kept.value, kept.step) == ("is bad", "worse", 1.0, 3000)
    assert first.what == "is bad"


def test_once_it_fires_every_evaluation_that_agrees_is_told_as_such():
    states = evaluate(rule(above=60, **{"for": 2}, keep_firing=1), series(61, 62, None, 63, 50, 64))
    assert short(states) == "pwwwww"
    assert [(state.note, state.what[-2:]) for state in states[3:]] == [
        ("", "63"),
        ("kept firing, 1 of 1; it is not above 60", "63"),
        ("", "64"),
    ]


def test_an_alert_begins_when_it_fires_and_not_when_it_is_pending():
    history = series(50, 70, 70, 70, 50, 50)
    (episode,) = episodes(rule(above=60, **{"for": 3}, keep_firing=1), history)
    assert (episode.fired_step, episode.resolved_step, episode.reason) == (4000, 6000, "it is not above 60")


def test_an_alert_that_gives_way_to_a_pending_one_says_why_it_is_over():
    (first,) = episodes(rule(moves=0.1, across=2, mode="each", **{"for": 2}), series(10, 12, 14, 12))
    assert (first.direction, first.fired_step, first.resolved_step) == ("worse", 3000, 4000)
    assert first.reason == "the movement is now for the better"


# --- without for, warmup and keep_firing ---------------------------------------------------------------------


def plain(chosen, history):
    """The directions in which a rule on movements without for, warmup and keep_firing fires."""
    window, said, direction = [], [], None
    for item in history:
        if item.state is ScoreState.OK:
            kept = window[-(chosen.across - 1) :]
            window = [item] if obstacle(kept, item) else [*kept, item]
            if len(window) == chosen.across:
                found = movement(chosen, window)
                direction = found.direction if found else None
        # While nobody can tell, what was said last is said.
        said.append(direction)
    return said


histories = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from([10.0, 10.5, 11.0, 12.0, 15.0])),
        st.sampled_from("aaaab"),
        st.sampled_from([100, 100, 99, 90]),
    ),
    max_size=20,
)


def read(history):
    return [
        each
        for number, (value, name, images) in enumerate(history, start=1)
        for each in series(value, name=name, images=images, start=number)
    ]


@given(histories, st.integers(2, 4), st.sampled_from(["range", "net", "each"]), st.sampled_from(["any", "worse"]))
@settings(max_examples=200, deadline=None)
def test_without_them_a_rule_fires_as_long_as_the_last_window_that_could_be_judged_shows_a_movement(
    history, across, mode, direction
):
    chosen = rule(moves=0.07, across=across, mode=mode, direction=direction)
    states = evaluate(chosen, read(history))
    assert [state.direction for state in states] == plain(chosen, read(history))
    assert AlertState.PENDING not in {state.state for state in states}


@given(
    st.text("wwwb..?", max_size=25),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_it_fires_only_after_for_in_a_row_and_ends_only_when_calm_for_longer_than_keep_firing(said, row, keep, warm):
    states = live(said, in_a_row=row, keep_firing=keep, warmup=warm)[warm:]
    for at, state in enumerate(states):
        before = states[at - 1] if at else None
        was = before is not None and before.state is AlertState.FIRING
        same = was and before.direction == state.direction
        if state.state is AlertState.FIRING and not same:
            letter = state.direction[0]
            assert at + 1 >= row
            assert said[at - row + 1 : at + 1] == letter * row
        if was and state.state is not AlertState.FIRING:
            # Since the condition held last, so many evaluations that could tell have gone by.
            letter = before.direction[0]
            known = [each for each in said[: at + 1] if each != "?"]
            assert letter not in known[-(keep + 1) :]
