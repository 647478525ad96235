"""What is not told for now: silences, inhibition, quiet hours; and what becomes of it when their reason ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from metricwatch.alerts.holding import quiet_until
from metricwatch.config.routing import STALE_SILENCES_METRICS, Inhibition, QuietHours, Routing
from metricwatch.errors import TemporaryError
from metricwatch.records import Run
from tests.support.dispatching import DAY, Scene

HOUR = 3600
# The clock of the tests begins at midnight, UTC, on a Thursday.
NIGHT_TIME = QuietHours.model_validate({"from": "22:00", "to": "07:00", "except": ["severity=critical"]})
ALL_NIGHT = QuietHours.model_validate({"from": "00:00", "to": "07:00"})


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options):
        made.append(Scene(tmp_path, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


# --- silences ----------------------------------------------------------------------------------------------


def test_what_still_fires_when_its_silence_ends_is_told_then(make):
    scene = make()
    scene.silence("severity=critical", seconds=100)
    scene.fire()
    scene.turn()
    scene.turn(99)
    assert scene.team.messages == []
    assert scene.log.held()[0] == ("night", "fid-moved", "mail", "silence 1 of ada: known")
    assert not scene.log.unannounced()
    scene.turn(1)
    assert scene.team.heard() == [("firing", [("firing", "fid-moved")])]
    assert scene.log.held() == []


def test_what_was_silenced_all_its_life_is_never_told(make):
    scene = make()
    scene.silence("alertname=fid-moved", seconds=100)
    alert = scene.fire()
    scene.turn()
    scene.turn(50)
    scene.resolve(alert)
    scene.turn(10)
    scene.turn(HOUR)
    assert scene.team.messages == []
    assert scene.db.read("SELECT count(*) FROM alert_receivers WHERE NOT closed")[0][0] == 0


def test_what_began_and_ended_under_a_silence_between_two_looks_is_never_told(make):
    scene = make()
    scene.silence("alertname=fid-moved", seconds=100)
    scene.resolve(scene.fire())
    scene.turn()
    scene.turn(HOUR)
    assert scene.team.messages == []


def test_the_end_of_what_was_told_waits_for_the_end_of_the_silence(make):
    scene = make()
    alert = scene.fire()
    scene.turn()
    scene.silence("run=night", seconds=100)
    scene.resolve(alert)
    scene.turn(10)
    assert len(scene.team.messages) == 1
    scene.turn(90)
    assert scene.team.heard()[1] == ("resolved", [("resolved", "fid-moved")])


def test_what_was_due_before_it_was_silenced_is_not_lost(make):
    """It fired for a while unsilenced, and only its group's wait kept it from being told."""
    scene = make(routing=Routing(group_wait=60))
    alert = scene.fire()
    scene.turn()
    scene.silence("run=night", seconds=100)
    scene.turn(30)
    scene.resolve(alert)
    scene.turn(30)
    assert scene.team.messages == []
    scene.turn(60)
    assert [event for event, _ in scene.team.heard()] == ["resolved"]


def test_reminders_are_silenced_too(make):
    scene = make(routing=Routing(group_wait=0, group_interval=0, repeat_interval=HOUR))
    scene.fire()
    scene.turn()
    scene.silence("run=night", seconds=3 * HOUR)
    scene.turn(2 * HOUR)
    assert len(scene.team.messages) == 1
    scene.turn(HOUR)
    assert [event for event, _ in scene.team.heard()] == ["firing", "reminder"]


@pytest.mark.parametrize(
    ("matchers", "covered"),
    [
        (("alertname=fid-moved", "run=night"), True),
        (("alertname=fid-moved", "run=day"), False),
        (('run=~"ni.*"',), True),
        (('run=~"ni"',), False),
        (("team=vision",), True),
        (("team!=vision",), False),
        (("owner=",), True),
        ((), True),
    ],
)
def test_a_silence_covers_what_all_its_matchers_match(make, matchers, covered):
    scene = make()
    scene.silence(*matchers)
    scene.fire(labels={"team": "vision"})
    scene.turn()
    assert (scene.team.messages == []) is covered


def test_a_silence_holds_from_its_beginning_and_can_be_ended(make):
    scene = make()
    number = scene.silence("run=night", after=100, seconds=HOUR)
    scene.fire("before")
    scene.turn(99)
    assert len(scene.team.messages) == 1
    scene.fire("during")
    scene.turn(1)
    assert len(scene.team.messages) == 1
    scene.silences.expire(number, scene.clock.now())
    scene.turn()
    assert scene.team.heard()[1] == ("firing", [("firing", "during")])


def waiting(make, event="firing"):
    """An alert of which a message waits for another try, and is silenced by then."""
    scene = make(receivers={})
    scene.configure(receivers={"team": scene.team})
    alert = scene.fire()
    if event == "resolved":
        scene.turn()
        scene.resolve(alert)
    scene.team.errors = [TemporaryError("HTTP 503")]
    scene.turn()
    scene.silence("alertname=fid-moved", seconds=100)
    return scene, alert


def test_what_waits_for_another_try_is_not_sent_once_it_is_silenced(make):
    scene, _ = waiting(make)
    scene.turn(50)
    assert scene.team.tried == 1
    (row,) = scene.log.rows()
    assert (row["state"], row["attempts"], row["reason"]) == ("withdrawn", 1, "silence 1 of ada: known")
    assert scene.log.held()[0][3] == "silence 1 of ada: known"
    # Whatever else there is to tell does not wait behind it.
    scene.fire("other")
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", "other")])]
    scene.turn(50)
    assert scene.team.heard()[1] == ("firing", [("firing", "fid-moved")])


def test_what_is_over_when_the_silence_ends_that_stopped_its_message_is_told(make):
    scene, alert = waiting(make)
    scene.turn(50)
    scene.resolve(alert)
    scene.turn()
    scene.turn(50)
    assert scene.team.heard() == [("resolved", [("resolved", "fid-moved")])]
    assert "Nothing was said of it before" in scene.team.messages[0].summary


def test_an_end_whose_message_was_stopped_by_a_silence_is_told_when_it_is_over(make):
    scene, alert = waiting(make, "resolved")
    scene.turn(50)
    assert scene.stage._told.of(alert)["team"].told == "firing"
    assert [event for event, _ in scene.team.heard()] == ["firing"]
    scene.turn(50)
    assert [event for event, _ in scene.team.heard()] == ["firing", "resolved"]


def test_a_reminder_that_was_stopped_by_a_silence_comes_when_it_is_over(make):
    scene = make(receivers={})
    scene.configure(receivers={"team": scene.team})
    scene.fire()
    scene.turn()
    scene.team.errors = [TemporaryError("HTTP 503")]
    scene.turn(4 * HOUR)
    scene.silence("alertname=fid-moved", seconds=100)
    scene.turn(50)
    assert scene.log.rows()[0]["state"] == "withdrawn"
    scene.turn(50)
    assert [event for event, _ in scene.team.heard()] == ["firing", "reminder"]


def test_a_message_of_which_a_part_is_silenced_is_sent(make):
    scene = make()
    scene.team.errors = [TemporaryError("HTTP 503")]
    scene.fire("a")
    scene.fire("b")
    scene.turn()
    scene.silence("alertname=a")
    scene.turn(10)
    assert scene.team.heard() == [("firing", [("firing", "a"), ("firing", "b")])]


# --- inhibition --------------------------------------------------------------------------------------------


def test_a_dead_job_silences_its_own_metrics_and_nobody_elses(make):
    scene = make(inhibit=STALE_SILENCES_METRICS)
    stale = scene.fire("job-dead", kind="stale", metric="", what="had no evaluation for 2h", window=(), moved=())
    scene.fire("fid-moved")
    scene.fire("fid-moved", run=DAY)
    scene.turn()
    heard = [(n.alert.rule, n.run_name) for m in scene.team.messages for n in m.notices]
    assert heard == [("job-dead", "night"), ("fid-moved", "day")]
    assert scene.team.messages[0].title == "[critical] night: had no evaluation for 2h (job-dead)"
    assert scene.log.held()[0][3] == "inhibited: job-dead of night fires"
    scene.resolve(stale)
    scene.turn()
    assert ("firing", "fid-moved") in scene.team.heard()[-1][1]


def test_a_metric_that_is_stale_silences_the_rules_on_it_and_no_others(make):
    scene = make(inhibit=STALE_SILENCES_METRICS)
    scene.fire("kid-missing", kind="stale", metric="kid", what="had no evaluation for 2h", window=(), moved=())
    scene.fire("kid-moved", metric="kid")
    scene.fire("fid-moved")
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", "kid-missing"), ("firing", "fid-moved")])]


def test_a_dead_job_silences_no_other_of_its_name(make):
    scene = make(inhibit=STALE_SILENCES_METRICS)
    other = Run(key="k/another", name="night")
    scene.ledger.register_run(other, scene.clock.now())
    scene.fire("job-dead", kind="stale", metric="", what="had no evaluation for 2h", window=(), moved=())
    scene.fire("fid-moved", run=other)
    scene.turn()
    assert [rule for _, notices in scene.team.heard() for _, rule in notices] == ["job-dead", "fid-moved"]


@pytest.mark.parametrize("circle", ["ab", "abc", "abcd"])
def test_a_circle_of_inhibitions_silences_nobody_in_it(make, circle):
    pairs = [*zip(circle, circle[1:] + circle[0], strict=True), (circle[0], "z")]
    scene = make(inhibit=[Inhibition(source=(f"alertname={a}",), target=(f"alertname={b}",)) for a, b in pairs])
    for name in (*circle, "z"):
        scene.fire(name)
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", name) for name in circle])]
    assert scene.log.held()[0][1] == "z"


def test_inhibition_goes_on_over_an_alert_that_is_inhibited_itself(make):
    chain = [Inhibition(source=(f"alertname={a}",), target=(f"alertname={b}",)) for a, b in ("ab", "bc")]
    scene = make(inhibit=chain)
    for name in "abc":
        scene.fire(name)
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", "a")])]


def test_an_alert_inhibits_also_when_nobody_was_told_of_it(make):
    scene = make(inhibit=STALE_SILENCES_METRICS)
    scene.silence("alertname=job-dead")
    scene.fire("job-dead", kind="stale", metric="", what="had no evaluation for 2h")
    alert = scene.fire("fid-moved")
    scene.turn()
    scene.resolve(alert)
    scene.turn()
    assert scene.team.messages == []


def test_an_alert_inhibits_neither_itself_nor_one_that_would_inhibit_it(make):
    both = Inhibition(source=("severity=critical",), target=('severity=~".+"',), equal=("run",))
    scene = make(inhibit=(both,))
    scene.fire("a")
    scene.fire("b")
    scene.fire("c", severity="info")
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", "a"), ("firing", "b")])]


# --- quiet hours -------------------------------------------------------------------------------------------


def test_what_quiet_hours_held_comes_as_one_digest_when_they_end(make):
    scene = make(quiet_hours=(NIGHT_TIME,))
    scene.fire("told", severity="critical")
    scene.turn()
    scene.fire("lasts", severity="warning")
    over = scene.fire("over", severity="info", run=DAY)
    scene.turn(HOUR)
    scene.resolve(over)
    scene.turn(HOUR)
    assert scene.team.heard() == [("firing", [("firing", "told")])]
    assert scene.log.held()[0][3] == "quiet hours until 2026-01-01 07:00 UTC"
    scene.turn(5 * HOUR)
    digest = scene.team.messages[1]
    assert scene.team.heard()[1] == ("digest", [("firing", "lasts"), ("resolved", "over")])
    assert digest.title == "[digest] 2 alerts during quiet hours"
    assert digest.summary.splitlines() == [
        "[warning] night: fid rose 20.0% (lasts), since step 2000",
        "[resolved] day: fid rose 20.0% (over, was info), fired at step 2000, over at step 5000",
    ]
    # What was told in the night is reminded of as ever, by a message of its own.
    assert scene.team.heard()[2] == ("reminder", [("reminder", "told")])
    scene.turn(10 * 60)
    assert (scene.log.held(), len(scene.team.messages)) == ([], 3)


def test_a_reminder_is_no_part_of_a_digest(make):
    scene = make(quiet_hours=(NIGHT_TIME,), routing=Routing(group_wait=0, group_interval=0, repeat_interval=HOUR))
    scene.clock.advance(21.5 * HOUR)
    scene.fire("evening", severity="warning")
    scene.turn()
    scene.turn(HOUR)
    scene.fire("night", severity="warning")
    scene.turn(HOUR)
    assert [event for event, _ in scene.team.heard()] == ["firing"]
    scene.turn(9 * HOUR)
    assert sorted(scene.team.heard()[1:]) == [
        ("digest", [("firing", "night")]),
        ("reminder", [("reminder", "evening")]),
    ]


def test_the_end_that_comes_with_the_morning_is_no_part_of_a_digest_because_a_reminder_was_held(make):
    scene = make(quiet_hours=(NIGHT_TIME,), routing=Routing(group_wait=0, group_interval=0, repeat_interval=HOUR))
    scene.clock.advance(21.5 * HOUR)
    alert = scene.fire(severity="warning")
    scene.turn()
    scene.turn(2 * HOUR)
    scene.clock.advance(8 * HOUR)
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.team.heard()] == ["firing", "resolved"]


def test_the_end_of_what_was_told_before_waits_for_the_digest(make):
    scene = make(quiet_hours=(NIGHT_TIME,))
    scene.clock.advance(21 * HOUR)
    alert = scene.fire(severity="warning")
    scene.turn()
    scene.turn(2 * HOUR)
    scene.resolve(alert)
    scene.turn(HOUR)
    scene.turn(8 * HOUR)
    assert scene.team.heard()[1:] == [("digest", [("resolved", "fid-moved")])]


def test_quiet_hours_may_be_those_of_one_receiver(make):
    scene = make(quiet_hours=(ALL_NIGHT.model_copy(update={"receivers": ("mail",)}),))
    scene.fire()
    scene.turn()
    assert (len(scene.team.messages), len(scene.mail.messages)) == (1, 0)
    scene.turn(7 * HOUR)
    assert [event for event, _ in scene.mail.heard()] == ["digest"]


def test_what_a_silence_covers_when_quiet_hours_end_is_no_part_of_the_digest(make):
    scene = make(quiet_hours=(ALL_NIGHT,))
    scene.fire("silenced")
    scene.fire("told")
    scene.turn()
    scene.silence("alertname=silenced", seconds=8 * HOUR)
    scene.turn(7 * HOUR)
    assert scene.team.heard() == [("digest", [("firing", "told")])]
    scene.turn(HOUR)
    assert scene.team.heard()[1] == ("firing", [("firing", "silenced")])


@pytest.mark.parametrize(
    ("options", "moment", "until"),
    [
        ({"from": "22:00", "to": "07:00"}, "2026-01-01T21:59:59", None),
        ({"from": "22:00", "to": "07:00"}, "2026-01-01T22:00:00", "2026-01-02T07:00"),
        ({"from": "22:00", "to": "07:00"}, "2026-01-02T06:59:59", "2026-01-02T07:00"),
        ({"from": "22:00", "to": "07:00"}, "2026-01-02T07:00:00", None),
        # Thursday's night is over on Friday.
        ({"from": "22:00", "to": "07:00", "days": ["thu"]}, "2026-01-02T03:00:00", "2026-01-02T07:00"),
        ({"from": "22:00", "to": "07:00", "days": ["fri"]}, "2026-01-02T03:00:00", None),
        ({"from": "12:00", "to": "24:00"}, "2026-01-01T23:59:00", "2026-01-02T00:00"),
        ({"from": "22:00", "to": "07:00", "timezone": "Europe/Berlin"}, "2026-01-01T21:00:00", "2026-01-02T06:00"),
        ({"from": "22:00", "to": "07:00", "timezone": "Europe/Berlin"}, "2026-07-01T20:00:00", "2026-07-02T05:00"),
        # The night of the summer's beginning has an hour less, that of its end one more.
        ({"from": "01:00", "to": "07:00", "timezone": "Europe/Berlin"}, "2026-03-29T00:30:00", "2026-03-29T05:00"),
        ({"from": "01:00", "to": "07:00", "timezone": "Europe/Berlin"}, "2026-10-25T05:59:00", "2026-10-25T06:00"),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(options, moment, until):
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    found = quiet_until((QuietHours.model_validate(options),), "team", {}, now)
    assert (found.astimezone(UTC).strftime("%Y-%m-%dT%H:%M") if found else None) == until


@pytest.mark.parametrize(
    ("spans", "until"),
    [
        # Saturday and Sunday, in pieces that touch, and a night that overlaps the last of them.
        ([("00:00", "12:00"), ("12:00", "24:00")], "2026-01-05T00:00"),
        ([("00:00", "12:00"), ("11:00", "24:00"), ("22:00", "07:00")], "2026-01-05T07:00"),
        ([("00:00", "12:00"), ("12:01", "24:00")], "2026-01-03T12:00"),
    ],
)
def test_quiet_hours_that_touch_end_with_the_last_of_them(spans, until):
    hours = [QuietHours.model_validate({"from": a, "to": b, "days": ["sat", "sun"]}) for a, b in spans]
    found = quiet_until(hours, "team", {}, datetime(2026, 1, 3, 6, tzinfo=UTC))
    assert found is not None
    assert found.astimezone(UTC).strftime("%Y-%m-%dT%H:%M") == until
