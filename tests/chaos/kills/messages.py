"""What people were told: each event at least once, in order, and again only where a kill explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from tests.chaos.kills.ledger import LedgerReader
from tests.chaos.kills.receivers import SLACK, Arrival, Key, slack_key

# A kill is noticed by looking; and what a killed daemon had sent may still be on its way through the receiver.
_SLACKNESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one receiver got: how many events, how many messages again after a kill, and what must not be."""

    events: int
    repeated: int
    wrong: list[str]


def expected(ledger: LedgerReader, receiver: str) -> list[Key]:
    """The events that a receiver must hear of, in order."""
    rows = ledger.rows(
        """SELECT n.id, a.rule, n.event, a.direction, n.created_ms FROM notifications AS n
           JOIN notification_alerts AS told ON told.notification = n.id JOIN alerts AS a ON a.id = told.alert
           WHERE n.receiver = ? ORDER BY n.id""",
        receiver,
    )
    return [
        slack_key(rule=rule, event=event, direction=direction, created_ms=created_ms)
        if receiver == SLACK
        else (number,)
        for number, rule, event, direction, created_ms in rows
    ]


def judge(receiver: str, wanted: Sequence[Key], arrivals: Sequence[Arrival], kills: Sequence[float]) -> Told:
    """Compare what came with the log. kills: when the daemon was killed; each excuses one message that came again."""
    # Of one second there may be several events that a receiver cannot tell apart, one after the other.
    logged = [(key, len(list(group))) for key, group in groupby(wanted)]
    came = [(key, list(group)) for key, group in groupby(arrivals, key=lambda item: item.key)]
    wrong = []
    if [key for key, _ in logged] != [key for key, _ in came]:
        lost = Counter(key for key, _ in logged) - Counter(key for key, _ in came)
        odd = Counter(key for key, _ in came) - Counter(key for key, _ in logged)
        wrong.append(f"{receiver}: never came: {list(lost)}; not in the log, or out of its order: {list(odd)}")
        return Told(events=len(wanted), repeated=0, wrong=wrong)
    excuses = list(kills)
    repeated = 0
    for (key, events), (_, group) in zip(logged, came, strict=True):
        surplus = len(group) - events
        if surplus < 0:
            wrong.append(f"{receiver}: of {events} events {key} only {len(group)} came")
        pairs = list(pairwise(group))
        for _ in range(surplus):
            repeated += 1
            excuse = next((kill for kill in excuses if any(_between(kill, *pair) for pair in pairs)), None)
            if excuse is None:
                seconds = group[-1].at - group[0].at
                wrong.append(f"{receiver}: {key} came again within {seconds:.1f} s, and no kill excuses it")
            else:
                excuses.remove(excuse)
    return Told(events=len(wanted), repeated=repeated, wrong=wrong)


def _between(kill: float, before: Arrival, after: Arrival) -> bool:
    return before.at - _SLACKNESS_SECONDS < kill < after.at
