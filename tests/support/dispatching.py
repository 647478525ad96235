"""The alerts stage over a real ledger, with alerts put there by hand and receivers that keep what they get."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from metricwatch.alerts.stage import AlertDispatcher
from metricwatch.api import Notifier
from metricwatch.config.routing import Routing
from metricwatch.records import AlertState, Run, WindowPoint
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.silences import Silences
from metricwatch.testing import samples
from metricwatch.testing.clock import FakeClock

NIGHT, DAY = Run(key="k/night", name="night"), Run(key="k/day", name="day")
NO_WAITS = Routing(group_wait=timedelta(0), group_interval=timedelta(0))


class Receiver(Notifier):
    """Keeps the messages, and raises what it is told to. place names what it shares its pace with."""

    Options = dict

    def __init__(self, pause=0.0, place=None, pictures=False) -> None:
        self.pause = timedelta(seconds=pause)
        self.takes_pictures = pictures
        self.place = place
        self.messages = []
        self.errors = []
        self.tried = 0

    def address(self):
        return self.place

    def send(self, notification):
        self.tried += 1
        if self.errors:
            raise self.errors.pop(0)
        self.messages.append(notification)

    def heard(self):
        """Each message: what it reports, and what it tells of which rule."""
        return [(m.event, [(n.event, n.alert.rule) for n in m.notices]) for m in self.messages]


class Scene:
    def __init__(self, folder, **settings) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger, self.alerts, self.log = Ledger(self.db), Alerts(self.db), NotificationLog(self.db)
        self.silences = Silences(self.db)
        for run in (NIGHT, DAY):
            self.ledger.register_run(run, self.clock.now())
        self.team, self.mail = Receiver(), Receiver()
        self.configure(**settings)

    def configure(self, *, receivers=None, rules=(), routing=NO_WAITS, **settings):
        """As a start of the daemon with this configuration."""
        self.receivers = {"team": self.team, "mail": self.mail} if receivers is None else receivers
        self.stage = AlertDispatcher(self.db, rules, self.receivers, "mlflow", self.clock, routing=routing, **settings)
        self.stage.start()

    def fire(self, rule="fid-moved", run=NIGHT, **facts):
        """An alert begins; returns its id. It is told by the next turn."""
        seen = (WindowPoint(step=1000, value=30.0, stderr=0.1), WindowPoint(step=2000, value=36.0, stderr=0.1))
        facts = {"fired_step": 2000, "change": 0.2, **facts}
        alert = replace(samples.alert(rule=rule, points_seen=seen), run=run.key, **facts)
        return self.alerts.add(alert, announce=True, now=self.clock.now())

    def resolve(self, alert, *, announce=True):
        self.alerts.resolve(
            alert, step=5000, value=30.0, reason="moved no further", now=self.clock.now(), announce=announce
        )

    def silence(self, *matchers, seconds=3600, after=0.0):
        """Somebody silences alerts for a while."""
        now = self.clock.now()
        start = now + timedelta(seconds=after)
        end = start + timedelta(seconds=seconds)
        return self.silences.add(matchers, author="ada", comment="known", starts=start, ends=end, now=now)

    def turn(self, seconds=0.0):
        """Let time pass, then do all that is to be done."""
        self.clock.advance(seconds)
        for _ in range(50):
            if not self.stage.tick():
                return
        raise AssertionError("it never comes to rest")

    def state_of(self, alert):
        return next(row["state"] for row in self.db.read("SELECT id, state FROM alerts") if row["id"] == alert)


FIRING, RESOLVED = AlertState.FIRING, AlertState.RESOLVED
