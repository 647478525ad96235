"""From alert states to messages: each receiver is told once of what it should know, in few messages."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.config.routing import Route, Routing
from metricwatch.config.rules import MovesRule
from metricwatch.errors import PermanentError, TemporaryError
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.housekeeping import Housekeeping
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.schema import migrations
from tests.support.dispatching import DAY, NIGHT, NO_WAITS, Receiver, Scene

GROUPED = Routing()
HOUR = 3600


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options):
        made.append(Scene(tmp_path, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def test_a_beginning_and_an_end_are_told_once_to_everybody(make):
    scene = make()
    alert = scene.fire()
    scene.turn()
    scene.turn(60)
    scene.resolve(alert)
    scene.turn()
    scene.turn(60)
    assert scene.team.heard() == [("firing", [("firing", "fid-moved")]), ("resolved", [("resolved", "fid-moved")])]
    assert scene.mail.heard() == scene.team.heard()


def test_alerts_of_one_run_that_come_together_are_one_message(make):
    scene = make(routing=GROUPED)
    scene.fire("fid-moved")
    scene.turn()
    scene.turn(3)
    scene.fire("ssim-moved", metric="ssim", change=-0.12, severity="warning")
    scene.fire("day-moved", run=DAY)
    scene.turn(1)
    assert scene.team.messages == []
    scene.turn(1)
    # That of the other run waits for its own five seconds.
    assert scene.team.heard() == [("firing", [("firing", "fid-moved"), ("firing", "ssim-moved")])]
    message = scene.team.messages[0]
    assert message.title == "[critical] night: 2 alerts: fid rose 20.0%, ssim fell 12.0%"
    assert message.summary.splitlines() == [
        "[critical] night: fid rose 20.0% (fid-moved), since step 2000",
        "[warning] night: ssim fell 12.0% (ssim-moved), since step 2000",
    ]
    assert message.group == {"run": "night"}
    scene.turn(4)
    assert [m.run_name for m in scene.team.messages] == ["night", "day"]


def test_the_next_message_of_a_group_waits_for_group_interval(make):
    scene = make(routing=GROUPED)
    first = scene.fire("a")
    scene.turn()
    scene.turn(5)
    scene.fire("b")
    scene.turn(20)
    scene.resolve(first)
    scene.turn(35)
    assert len(scene.team.messages) == 1
    scene.turn(5)
    assert scene.team.heard()[1] == ("firing", [("firing", "b"), ("resolved", "a")])
    assert scene.team.messages[1].title == "[critical] night: 2 alerts: fid rose 20.0%; 1 over"


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        # The gravest first.
        ((), [["a", "c", "b"]]),
        (("run",), [["a", "b"], ["c"]]),
        (("run", "severity"), [["a"], ["b"], ["c"]]),
        (("...",), [["a"], ["b"], ["c"]]),
    ],
)
def test_group_by_says_what_shares_a_message(make, group_by, groups):
    scene = make(routing=Routing(group_by=group_by, group_wait=0, group_interval=0))
    scene.fire("a")
    scene.fire("b", severity="info")
    scene.fire("c", run=DAY)
    scene.turn()
    assert [[rule for _, rule in notices] for _, notices in scene.team.heard()] == groups


def test_alone_means_that_not_even_two_alerts_of_one_rule_share_a_message(make):
    scene = make(routing=Routing(group_by=("...",), group_wait=0, group_interval=0))
    for _ in range(2):
        scene.resolve(scene.fire())
    scene.turn()
    scene.turn()
    assert scene.team.heard() == [("resolved", [("resolved", "fid-moved")])] * 2
    first, second = (message.alert.id for message in scene.team.messages)
    assert first < second


def test_once_nothing_waits_for_its_group(make):
    scene = make(routing=GROUPED)
    scene.stage.at_once = True
    alert = scene.fire()
    assert scene.log.unannounced()
    scene.turn()
    scene.resolve(alert)
    assert scene.log.unannounced()
    scene.turn()
    assert [event for event, _ in scene.team.heard()] == ["firing", "resolved"]
    assert not scene.log.unannounced()
    assert scene.log.pending() == 0


def test_what_is_over_before_anybody_was_told_is_one_message_that_says_when_it_began(make):
    scene = make(routing=GROUPED)
    alert = scene.fire()
    scene.turn(2)
    scene.resolve(alert)
    scene.turn(10)
    assert scene.team.heard() == [("resolved", [("resolved", "fid-moved")])]
    assert "Nothing was said of it before: it began on 2026-01-01 at 00:00 UTC." in scene.team.messages[0].summary


def test_what_lasts_is_told_again_after_repeat_interval_and_not_before(make):
    scene = make(routing=GROUPED)
    scene.fire()
    scene.turn()
    scene.turn(5)
    scene.turn(4 * HOUR - 1)
    assert len(scene.team.messages) == 1
    scene.turn(1)
    scene.turn(10 * 60)
    assert [event for event, _ in scene.team.heard()] == ["firing", "reminder"]
    reminder = scene.team.messages[1]
    assert reminder.title == "[critical] night: still, for 4 h: fid rose 20.0% (fid-moved)"
    assert reminder.summary.startswith("Still firing, for 4 h, since step 2000. fid rose 20.0%: from 30")
    scene.turn(4 * HOUR)
    assert len(scene.team.messages) == 3


def test_a_route_may_have_its_own_repeat_interval(make):
    loud = Route(match=("severity=critical",), repeat_interval="1h")
    scene = make(routing=Routing(group_wait=0, group_interval=0, routes=(loud,)))
    scene.fire("grave")
    scene.fire("light", severity="info")
    scene.turn()
    scene.turn(HOUR)
    assert scene.team.heard()[1:] == [("reminder", [("reminder", "grave")])]


def test_an_alert_of_a_run_that_is_watched_no_more_is_not_told_again(make):
    scene = make()
    scene.fire()
    scene.turn()
    scene.configure(runs={DAY.key})
    scene.turn(5 * HOUR)
    assert len(scene.team.messages) == 1


def test_no_reminder_queues_up_behind_a_message_that_has_not_arrived(make):
    scene = make()
    scene.team.errors = [TemporaryError("HTTP 503")] * 200
    scene.fire()
    for _ in range(20):
        scene.turn(HOUR)
    assert scene.log.pending() == 1
    scene.team.errors = []
    scene.turn(400)
    assert [event for event, _ in scene.team.heard()] == ["firing", "reminder"]


def test_what_happens_behind_a_message_that_has_not_arrived_is_one_message_later(make):
    scene = make()
    scene.team.errors = [TemporaryError("HTTP 503")] * 3
    first = scene.fire("a")
    scene.turn()
    for name in ("b", "c"):
        scene.resolve(scene.fire(name))
        scene.turn(1)
    scene.resolve(first)
    for _ in range(10):
        scene.turn(10)
    assert scene.team.heard() == [
        ("firing", [("firing", "a")]),
        ("resolved", [("resolved", "a"), ("resolved", "b"), ("resolved", "c")]),
    ]
    assert "It is over by now." in scene.team.messages[0].summary


def test_routes_decide_who_hears_of_what(make):
    routes = (
        Route(match=("severity=info",), receivers=()),
        Route.model_validate({"match": ["team=vision"], "receivers": ["mail"], "continue": True}),
        Route(match=("run=night",), receivers=("team",)),
    )
    scene = make(routing=NO_WAITS.model_copy(update={"routes": routes, "receivers": ("mail",)}))
    scene.fire("quiet", severity="info")
    scene.fire("both", labels={"team": "vision"})
    scene.fire("night")
    scene.fire("other", run=DAY)
    scene.turn()
    assert [rule for _, notices in scene.team.heard() for _, rule in notices] == ["both", "night"]
    assert [rule for _, notices in scene.mail.heard() for _, rule in notices] == ["both", "other"]


def test_the_receivers_that_a_rule_names_hear_of_it_and_nobody_else(make):
    mine = MovesRule(name="mine", metric="fid", moves=0.1, across=5, receivers=("mail",))
    scene = make(rules=[mine])
    scene.fire("mine")
    scene.fire("gone")
    scene.turn()
    assert scene.team.heard() == [("firing", [("firing", "gone")])]
    assert scene.mail.heard() == [("firing", [("firing", "mine"), ("firing", "gone")])]


def test_what_a_rule_says_otherwise_for_a_run_counts_there(make):
    raw = {"name": "mine", "metric": "fid", "moves": "10%", "across": 5, "runs": {"day": {"receivers": ["mail"]}}}
    scene = make(rules=[MovesRule.model_validate(raw)])
    scene.fire("mine")
    scene.fire("mine", run=DAY)
    scene.turn()
    assert [message.run_name for message in scene.team.messages] == ["night"]
    assert [message.run_name for message in scene.mail.messages] == ["night", "day"]


def test_a_receiver_configured_later_does_not_hear_of_old_alerts(make):
    scene = make(receivers={})
    alert = scene.fire()
    scene.turn()
    scene.configure()
    scene.resolve(alert)
    scene.turn(5 * HOUR)
    assert scene.team.messages == scene.mail.messages == []


def test_nothing_waits_for_a_receiver_that_is_gone(make):
    scene = make(routing=GROUPED)
    scene.fire()
    scene.turn()
    scene.configure(receivers={"mail": scene.mail})
    scene.turn(10)
    assert (len(scene.mail.messages), len(scene.team.messages)) == (1, 0)
    assert (scene.log.unannounced(), scene.log.pending()) == (False, 0)


def renamed(scene, **before):
    """The first message does not arrive, and its receiver has another name from then on."""
    scene.team.errors = [TemporaryError("HTTP 503")] * 3
    scene.configure(receivers={"slack": scene.team, **before})
    alert = scene.fire()
    scene.turn()
    scene.chat = Receiver()
    scene.configure(receivers={"chat": scene.chat, **before})
    scene.turn(10)
    return alert


def test_what_a_receiver_never_got_its_new_name_gets(make):
    scene = make()
    alert = renamed(scene)
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.chat.heard()] == ["firing", "resolved"]


def test_what_is_routed_anew_is_not_told_again_to_those_who_know(make):
    scene = make()
    alert = renamed(scene, mail=scene.mail)
    scene.team.errors = []
    scene.configure(receivers={"chat": scene.chat, "mail": scene.mail, "later": scene.team})
    scene.turn(10)
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.chat.heard()] == ["firing", "resolved"]
    assert [event for event, _ in scene.mail.heard()] == ["firing", "resolved"]
    assert scene.team.messages == []


def test_a_receiver_that_was_gone_for_a_while_gets_what_it_never_got(make):
    scene = make(receivers={})
    scene.team.errors = [TemporaryError("HTTP 503")]
    for receivers in ({"team": scene.team}, {}, {"team": scene.team}):
        scene.configure(receivers=receivers)
        if not scene.team.tried:
            scene.fire()
        scene.turn()
    assert [event for event, _ in scene.team.heard()] == ["firing"]


def test_what_arrived_is_not_routed_anew_while_somebody_hears_its_end(make):
    scene = make()
    scene.fire()
    scene.turn()
    other = Receiver()
    scene.configure(receivers={"chat": other, "mail": scene.mail})
    scene.turn(10)
    assert (len(other.messages), len(scene.mail.messages)) == (0, 1)


def test_what_still_fires_when_all_its_receivers_are_gone_is_routed_anew(make):
    scene = make()
    alert = scene.fire()
    scene.turn()
    scene.configure(receivers={})
    scene.turn(10)
    # Back, it knows what it was told.
    scene.configure(receivers={"team": scene.team, "chat": Receiver()})
    scene.turn(10)
    scene.resolve(alert)
    scene.turn()
    assert [event for event, _ in scene.team.heard()] == ["firing", "resolved"]
    assert [event for event, _ in scene.receivers["chat"].heard()] == ["firing", "resolved"]


def test_an_alert_that_ends_without_a_word_is_told_no_more(make):
    scene = make()
    alert = scene.fire()
    scene.turn()
    scene.resolve(alert, announce=False)
    scene.turn(5 * HOUR)
    assert len(scene.team.messages) == 1
    assert scene.db.read("SELECT count(*) FROM alert_receivers WHERE NOT closed")[0][0] == 0


def test_a_restart_tells_nothing_twice(make):
    scene = make()
    alert = scene.fire()
    scene.turn()
    scene.configure()
    scene.turn(60)
    scene.resolve(alert)
    scene.turn()
    scene.configure()
    scene.turn(60)
    assert len(scene.team.messages) == 2


def test_with_a_run_goes_what_was_told_of_it_and_nothing_else(make):
    scene = make(routing=Routing(group_by=(), group_wait=0, group_interval=0, receivers=("team",), fallback="mail"))
    scene.team.errors = [PermanentError("no")] * 2
    scene.fire("night")
    scene.turn()
    scene.fire("both")
    scene.fire("day", run=DAY)
    scene.turn()
    assert len(scene.log.rows()) == 4
    house = Housekeeping(scene.db)
    assert house.remove_run(NIGHT.key)
    assert [row["alerts"] for row in scene.log.rows()] == ["day of day"] * 2
    assert house.remove_run(DAY.key)
    assert scene.log.rows() == []


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["fire", "resolve", "silence", "restart", "fail", "wait"]), st.integers(0, 400)),
        max_size=30,
    )
)
def test_in_the_end_everybody_knows_what_is_whatever_happened(tmp_path_factory, story):
    scene = Scene(tmp_path_factory.mktemp("story"), routing=GROUPED)
    alerts = []
    act_out(scene, story, alerts)
    known = {}
    for message in scene.team.messages:
        for notice in message.notices:
            if notice.event != "reminder":
                before = known.get(notice.alert.id, "")
                assert before != notice.event, "told twice"
                assert before != "resolved", "told after its end"
            known[notice.alert.id] = "firing" if notice.event == "reminder" else notice.event
    for alert in alerts:
        if scene.state_of(alert) == "firing":
            assert known[alert] == "firing"
        else:
            # Silenced all its life, it may have gone unsaid; it must not be left as firing.
            assert known.get(alert, "resolved") == "resolved"
    scene.db.close()


def act_out(scene, story, alerts):
    """Let it happen, and then an hour in which nothing does."""
    for what, number in story:
        if what == "fire" and len([a for a in alerts if scene.state_of(a) == "firing"]) < 3:
            alerts.append(scene.fire(f"rule-{len(alerts)}"))
        elif what == "resolve" and alerts:
            scene.resolve(alerts[number % len(alerts)])
        elif what == "silence":
            scene.silence(f'alertname="rule-{number % 5}"', seconds=number)
        elif what == "restart":
            scene.configure(routing=GROUPED)
        elif what == "fail":
            scene.team.errors = [TemporaryError("HTTP 503")] * (number % 3)
        scene.turn(number)
    for _ in range(20):
        scene.turn(100)


# --- a ledger of an earlier version ------------------------------------------------------------------------

_BEFORE = """
  INSERT INTO runs VALUES ('k/night', 'night', NULL, NULL, NULL, 0);
  INSERT INTO alerts (id, run, rule, kind, metric, direction, severity, labels, state, fired_step, change, threshold, window,
      moved, what, detail, reason, announce, fired_ms, resolved_step, resolved_ms)
    VALUES (1, 'k/night', 'told', 'state', 'fid', 'worse', 'critical', '{}', 'firing', 10, 0, 0, '[]', '[]', 'is bad', '', '',
            1, 1, NULL, NULL),
           (2, 'k/night', 'over', 'state', 'fid', 'worse', 'critical', '{}', 'resolved', 10, 0, 0, '[]', '[]', 'is bad', '',
            '', 1, 2, 20, 3),
           (3, 'k/night', 'half', 'state', 'fid', 'worse', 'critical', '{}', 'resolved', 10, 0, 0, '[]', '[]', 'is bad', '',
            '', 1, 4, 20, 5),
           (4, 'k/night', 'new', 'state', 'fid', 'worse', 'critical', '{}', 'firing', 10, 0, 0, '[]', '[]', 'is bad', '', '',
            1, 6, NULL, NULL),
           (5, 'k/night', 'waits', 'state', 'fid', 'worse', 'critical', '{}', 'firing', 10, 0, 0, '[]', '[]', 'is bad', '',
            '', 1, 7, NULL, NULL);
  INSERT INTO announcements VALUES (1, 'firing'), (2, 'firing'), (2, 'resolved'), (3, 'firing'), (5, 'firing');
  INSERT INTO notifications (id, alert, event, notifier, state, attempts, reason, created_ms, sent_ms)
    VALUES (1, 1, 'firing', 'team', 'sent', 1, '', 10, 11), (2, 2, 'firing', 'team', 'sent', 1, '', 12, 13),
           (3, 2, 'resolved', 'team', 'sent', 1, '', 14, 15), (4, 3, 'firing', 'team', 'sent', 1, '', 16, 17),
           (5, 5, 'firing', 'team', 'pending', 3, 'HTTP 503', 18, NULL), (6, 1, 'firing', 'mail', 'failed', 1, 'no', 19, NULL);
"""


def earlier_ledger(folder):
    connection = sqlite3.connect(folder / FILE_NAME)
    for number, script in migrations()[:5]:
        connection.executescript(f"{script}\nPRAGMA user_version = {number};")
    connection.executescript(_BEFORE)
    connection.commit()
    connection.close()


def test_after_an_upgrade_what_waits_is_delivered_and_nothing_is_told_twice(tmp_path, make):
    earlier_ledger(tmp_path)
    scene = make()
    # By then more than a day old; the clock must not give it up before it was tried again.
    scene.db.read(
        "UPDATE notifications SET created_ms = ? WHERE id = 5", (round(scene.clock.now().timestamp() * 1000),)
    )
    scene.turn()
    scene.turn(60)
    told = [(notice.event, notice.alert.rule) for m in scene.team.messages for notice in m.notices]
    assert sorted(told) == [("firing", "new"), ("firing", "waits"), ("resolved", "half")]
    assert [(n.event, n.alert.rule) for m in scene.mail.messages for n in m.notices] == [("firing", "new")]


def test_an_upgrade_reminds_of_what_lasts_only_a_repeat_interval_later(tmp_path, make):
    earlier_ledger(tmp_path)
    scene = make()
    scene.turn()
    scene.turn(3 * HOUR)
    assert "reminder" not in {event for event, _ in scene.team.heard()}
    scene.turn(HOUR)
    assert ("reminder", "told") in {item for _, notices in scene.team.heard() for item in notices}


def test_the_log_of_an_earlier_version_can_be_read_without_changing_it(tmp_path):
    earlier_ledger(tmp_path)
    db = Database.open_readonly(tmp_path)
    log = NotificationLog(db)
    (newest, *_) = log.rows()
    assert (newest["receiver"], newest["alerts"], newest["state"]) == ("mail", "told of night", "failed")
    assert (log.held(), log.pending()) == ([], 1)
    db.close()


def test_the_log_names_what_a_message_tells(make):
    scene = make(receivers={"team": Receiver()})
    scene.fire("a")
    scene.fire("b")
    scene.turn()
    (row,) = scene.log.rows()
    assert (row["receiver"], row["event"], row["state"], row["alerts"]) == (
        "team",
        "firing",
        "sent",
        "a of night, b of night",
    )
