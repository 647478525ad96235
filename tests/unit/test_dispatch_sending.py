"""Messages on their way: pace, refusals and who stands in, receivers that hang, words and pictures that fail."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from metricwatch.config.routing import Routing
from metricwatch.config.rules import MovesRule
from metricwatch.drawing import process
from metricwatch.errors import LedgerUnavailableError, PermanentError, TemporaryError
from metricwatch.records import Evaluation, JobState, Score
from metricwatch.store.ledger import Recorded
from metricwatch.store.scores import Scores
from tests.support.dispatching import NIGHT, NO_WAITS, Receiver, Scene
from tests.support.locked_ledger import unwritable

WITH_FALLBACK = NO_WAITS.model_copy(update={"receivers": ("team",), "fallback": "mail"})


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options):
        made.append(Scene(tmp_path, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def rule(**message):
    return MovesRule(name="fid-moved", metric="fid", moves=0.1, across=5, message=message)


# --- pace --------------------------------------------------------------------------------------------------


def test_between_two_messages_to_one_place_is_a_pause_whoever_sends_them(make):
    one, two, other = Receiver(pause=1, place="hook"), Receiver(pause=1, place="hook"), Receiver(pause=1)
    scene = make(receivers={"one": one, "two": two, "other": other})
    scene.fire()
    scene.turn()
    assert [len(r.messages) for r in (one, two, other)] == [1, 0, 1]
    scene.turn(0.9)
    assert two.tried == 0
    scene.turn(0.1)
    assert len(two.messages) == 1
    assert {row["attempts"] for row in scene.log.rows()} == {1}


def test_a_restart_does_not_cut_a_pause_short(make):
    team = Receiver(pause=1, place="hook")
    scene = make(receivers={"team": team})
    alert = scene.fire()
    scene.turn()
    scene.resolve(alert)
    scene.configure(receivers={"renamed": Receiver(), "team": team})
    scene.turn(0.5)
    assert len(team.messages) == 1
    scene.turn(0.5)
    assert len(team.messages) == 2


def test_a_failed_attempt_counts_for_the_pace_of_the_place(make):
    one, two = Receiver(pause=1, place="hook"), Receiver(pause=1, place="hook")
    one.errors = [TemporaryError("HTTP 503")]
    scene = make(receivers={"one": one, "two": two})
    scene.fire()
    scene.turn()
    assert (one.tried, two.tried) == (1, 0)
    scene.turn(1)
    assert two.tried == 1


def test_a_plugin_that_cannot_name_its_place_has_one_of_its_own(make):
    class Broken(Receiver):
        def address(self):
            raise KeyError("https://hooks.example.org/secret")

    broken = Broken()
    with capture_logs() as logs:
        scene = make(receivers={"team": broken})
    scene.fire()
    scene.turn()
    assert len(broken.messages) == 1
    assert "secret" not in str(logs)


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_refused_message_is_sent_through_another_receiver_once(make):
    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [PermanentError("slack: HTTP 404: no_team")]
    scene.fire("a")
    scene.fire("b")
    scene.turn()
    assert scene.mail.heard() == [("firing", [("firing", "a"), ("firing", "b")])]
    assert scene.mail.messages[0].note == "sent in place of team, which refused it: slack: HTTP 404: no_team"
    stand_in, refused = scene.log.rows()
    assert (refused["state"], refused["reason"]) == ("failed", "slack: HTTP 404: no_team")
    assert (stand_in["state"], stand_in["instead_of"], stand_in["note"][:22]) == (
        "sent",
        refused["id"],
        "sent in place of team,",
    )


def test_a_message_that_two_refuse_goes_round_no_circle(make):
    scene = make(routing=NO_WAITS.model_copy(update={"fallback": "mail"}))
    scene.team.errors, scene.mail.errors = [PermanentError("no")] * 9, [PermanentError("no")] * 9
    scene.fire()
    scene.turn()
    scene.turn(60)
    assert [row["state"] for row in scene.log.rows()] == ["failed"] * 2
    assert (scene.team.tried, scene.mail.tried) == (1, 1)


def test_a_stand_in_hears_the_end_too_and_only_once(make):
    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [PermanentError("no")] * 9
    alert = scene.fire()
    scene.turn()
    # Of the team's reminder, which is refused as well, it hears by its own.
    scene.turn(4 * 3600)
    scene.resolve(alert)
    scene.turn()
    scene.turn(60)
    assert [event for event, _ in scene.mail.heard()] == ["firing", "reminder", "resolved"]
    assert scene.db.read("SELECT count(*) FROM alert_receivers WHERE NOT closed")[0][0] == 0


def test_a_stand_in_hears_the_end_too_where_the_receiver_takes_it_again(make):
    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [PermanentError("no")]
    alert = scene.fire()
    scene.turn()
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.mail.heard()] == ["firing", "resolved"]
    assert [event for event, _ in scene.team.heard()] == ["resolved"]


def test_a_stand_in_that_heard_only_the_end_hears_no_more(make):
    scene = make(routing=WITH_FALLBACK)
    alert = scene.fire()
    scene.turn()
    scene.team.errors = [PermanentError("no")]
    scene.resolve(alert)
    scene.turn()
    scene.turn(60)
    assert scene.mail.heard() == [("resolved", [("resolved", "fid-moved")])]


def test_who_has_heard_it_is_not_told_again_in_anothers_place(make):
    scene = make(routing=NO_WAITS.model_copy(update={"fallback": "mail"}))
    scene.team.errors = [PermanentError("no")] * 9
    alert = scene.fire("a")
    scene.turn()
    scene.turn(4 * 3600)
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.mail.heard()] == ["firing", "reminder", "resolved"]


def test_who_could_not_be_reached_itself_is_tried_again_in_anothers_place(make):
    scene = make(routing=NO_WAITS.model_copy(update={"fallback": "mail"}))
    scene.team.errors = [TemporaryError("HTTP 503"), PermanentError("no")]
    scene.mail.errors = [PermanentError("no")]
    scene.fire()
    scene.turn()
    scene.turn(10)
    assert scene.mail.heard() == [("firing", [("firing", "fid-moved")])]


def test_a_stand_in_has_no_stand_in_of_its_own_whatever_is_configured_by_then(make):
    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [PermanentError("no")]
    scene.mail.errors = [TemporaryError("HTTP 503"), PermanentError("no")]
    scene.fire()
    scene.turn()
    scene.configure(routing=WITH_FALLBACK.model_copy(update={"fallback": "team"}))
    scene.turn(10)
    assert (scene.team.tried, scene.mail.tried) == (1, 2)


def test_a_message_that_is_asked_for_again_and_refused_again_has_one_stand_in(make):
    from metricwatch.store.retries import Retries

    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [PermanentError("no")] * 2
    scene.fire()
    scene.turn()
    failed = [row["id"] for row in scene.log.rows() if row["state"] == "failed"]
    Retries(scene.db).request("notification", failed)
    scene.turn()
    assert (scene.team.tried, len(scene.mail.messages)) == (2, 1)


def test_what_nobody_takes_for_a_day_is_given_up_and_sent_elsewhere(make):
    scene = make(routing=WITH_FALLBACK)
    scene.team.errors = [TemporaryError("HTTP 503")] * 1000
    scene.fire()
    scene.turn()
    for _ in range(25):
        scene.turn(3600)
    assert scene.mail.messages[0].note.startswith("sent in place of team, which refused it: given up after 1 day")


def test_after_a_long_pause_a_message_is_not_given_up_at_the_first_hiccup(make):
    scene = make(receivers={"team": Receiver()})
    (team,) = scene.receivers.values()
    team.errors = [TemporaryError("HTTP 503")] * 2
    scene.fire()
    scene.stage.tick()
    scene.clock.advance(49 * 3600)
    scene.configure(receivers={"team": team})
    scene.turn()
    scene.turn(3500)
    assert team.heard()[0] == ("firing", [("firing", "fid-moved")])


def test_an_hour_after_a_long_pause_it_is_given_up(make):
    team = Receiver()
    team.errors = [TemporaryError("HTTP 503")] * 99
    scene = make(receivers={"team": team})
    scene.fire()
    scene.stage.tick()
    scene.clock.advance(49 * 3600)
    scene.configure(receivers={"team": team})
    scene.turn()
    assert [row["state"] for row in scene.log.rows()] == ["pending"]
    scene.turn(3601)
    assert [(row["event"], row["state"]) for row in scene.log.rows()][-1] == ("firing", "failed")


def test_a_notifier_that_breaks_its_contract_stops_nobody_and_its_words_are_not_kept(make):
    scene = make()
    scene.team.errors = [KeyError("https://hooks.example.org/secret")]
    scene.fire()
    with capture_logs() as logs:
        scene.turn()
    assert len(scene.mail.messages) == 1
    (failure,) = [entry for entry in logs if entry["event"] == "notification.failed"]
    assert "dispatching.py" in failure["where"]
    assert "secret" not in str(logs)
    failed = next(row for row in scene.log.rows() if row["state"] == "failed")
    assert failed["reason"] == "KeyError: the notifier failed in a way it should not"


# --- receivers that hang -----------------------------------------------------------------------------------


class Slow(Receiver):
    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def send(self, notification):
        assert self.go.wait(30)
        super().send(notification)


def test_a_receiver_that_hangs_delays_no_other_and_gets_its_message_once(make):
    slow, team = Slow(), Receiver()
    scene = make(receivers={"slow": slow, "team": team}, patience=timedelta(milliseconds=20))
    alert = scene.fire()
    scene.turn()
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in team.heard()] == ["firing", "resolved"]
    assert scene.log.pending() == 1
    slow.go.set()
    scene.stage.close()
    scene.turn()
    scene.stage.close()
    scene.turn()
    assert [event for event, _ in slow.heard()] == ["firing", "resolved"]
    assert scene.log.pending() == 0


def test_closing_does_not_wait_for_a_notifier_that_hangs_for_ever(make, monkeypatch):
    monkeypatch.setattr("metricwatch.alerts.stage._LAST_WORDS", timedelta(milliseconds=50))
    slow = Slow()
    scene = make(receivers={"slow": slow}, patience=timedelta(0))
    scene.fire()
    scene.turn()
    began = time.monotonic()
    scene.stage.close()
    assert time.monotonic() - began < 5
    assert scene.log.pending() == 1
    slow.go.set()


def test_a_message_that_arrived_while_the_ledger_could_not_be_written_is_marked_later(make):
    scene = make()
    scene.fire()
    scene.stage._announce()
    with unwritable(scene.db):
        for _ in range(3):
            with pytest.raises(LedgerUnavailableError):
                scene.stage.tick()
    scene.turn()
    assert (scene.team.tried, scene.mail.tried, scene.log.pending()) == (1, 1, 0)


def test_nothing_is_told_that_could_not_be_logged(make):
    scene = make()
    scene.fire()
    with unwritable(scene.db), pytest.raises(LedgerUnavailableError):
        scene.stage.tick()
    assert scene.team.tried == 0
    scene.turn()
    assert len(scene.team.messages) == 1


# --- words and pictures ------------------------------------------------------------------------------------


def test_a_rules_templates_replace_our_words(make):
    words = {
        "title": "{{ metric }} of {{ run }}:\n {{ '%.0f%%' | format(change * 100) }}",
        "text": "{{ text }} Call Ada.",
    }
    scene = make(rules=[rule(**words)])
    scene.fire()
    scene.turn()
    (message,) = scene.team.messages
    assert message.title == "fid of night: 20%"
    assert message.summary.endswith("The rule allows 10%. Call Ada.")
    assert message.note == ""


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ labels.owner }}", "'dict object' has no attribute 'owner'"),
        ("{{ 1 / (step - 2000) }}", "division by zero"),
        ("{% if false %}x{% endif %}", "it gives no text"),
    ],
)
def test_a_template_that_fails_when_it_is_sent_costs_no_message(make, template, why):
    scene = make(rules=[rule(title=template)])
    with capture_logs() as logs:
        scene.resolve(scene.fire())
        scene.fire()
        scene.turn()
    for who in (scene.team, scene.mail):
        (message,) = who.messages
        assert "fid" in message.title
        assert message.note.startswith("the template of rule fid-moved failed: ")
    if "step" not in template:
        assert why in message.note
    assert [entry["event"] for entry in logs].count("template.failed") == 1
    assert "the template of rule fid-moved failed" in scene.log.rows()[0]["note"]


def scores(scene, *values):
    """A series of the alert's metric, as the ledger has it."""
    for step, value in enumerate(values, start=1):
        scene.ledger.add_snapshot(
            source="s",
            run=NIGHT.key,
            step=1000 * step,
            path="p",
            members=None,
            recorded=Recorded(revision=1, digest="d", images=9, newest_ns=1, mtime_ns=1),
            now=scene.clock.now(),
        )
        job = scene.ledger.claim(scene.clock.now(), timedelta(minutes=1), ["s"])
        score = Score(key="fid", value=value, images=9, higher_is_better=False)
        evaluation = Evaluation(scores=(score,), skipped=(), images=9, seconds=1.0, provenance={})
        Scores(scene.db).record(job, evaluation, scene.clock.now())
        scene.ledger.finish(job.id, JobState.DONE, scene.clock.now())


def test_the_curve_is_drawn_for_those_who_show_it_and_once_however_often_it_is_sent(make, monkeypatch):
    drawn = []

    def draw(curves, form="png"):
        drawn.append(curves)
        return [b"PNG"] * len(curves)

    monkeypatch.setattr(process, "draw", draw)
    seeing, blind = Receiver(pictures=True), Receiver()
    seeing.errors = [TemporaryError("HTTP 503")]
    scene = make(receivers={"seeing": seeing, "blind": blind})
    scores(scene, 30.0, 36.0)
    scene.fire(kind="above", threshold=33.0)
    scene.turn()
    scene.turn(10)
    assert (seeing.messages[0].notices[0].picture, blind.messages[0].notices[0].picture) == (b"PNG", None)
    ((curve,),) = drawn
    assert ([(p.step, p.value) for p in curve.points], curve.bounds) == ([(1000, 30.0), (2000, 36.0)], (33.0,))
    assert (curve.spans[0].fired, curve.spans[0].until) == (2000, None)
    assert scene.stage._composer._drawn == {}


@pytest.mark.parametrize("error", [TemporaryError("no room"), KeyError("x")])
def test_a_curve_that_cannot_be_drawn_costs_the_picture_and_not_the_message(make, monkeypatch, error):
    def draw(curves, form="png"):
        raise error

    monkeypatch.setattr(process, "draw", draw)
    team = Receiver(pictures=True)
    scene = make(receivers={"team": team})
    scores(scene, 30.0, 36.0)
    scene.fire()
    scene.turn()
    assert [notice.picture for notice in team.messages[0].notices] == [None]


def test_a_message_has_at_most_five_pictures_and_the_gravest_come_first(make, monkeypatch):
    monkeypatch.setattr(process, "draw", lambda curves, form="png": [b"PNG"] * len(curves))
    team = Receiver(pictures=True)
    scene = make(receivers={"team": team}, routing=Routing(group_wait=0, group_interval=0))
    scores(scene, 30.0, 36.0)
    for number in range(8):
        scene.fire(f"rule-{number}", severity="critical" if number == 7 else "info")
    scene.turn()
    notices = team.messages[0].notices
    assert notices[0].alert.rule == "rule-7"
    assert [notice.picture is not None for notice in notices] == [True] * 5 + [False] * 3
