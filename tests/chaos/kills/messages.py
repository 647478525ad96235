"""What people were told: each event at least once, in order, and again only where a kill explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
           JOIN alerts AS a ON a.id = n.alert WHERE n.notifier = ? ORDER BY n.id""",
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
    once = [item.key for number, item in enumerate(arrivals) if not number or arrivals[number - 1].key != item.key]
    wrong = []
    if once != list(wanted):
        lost, odd = Counter(wanted) - Counter(once), Counter(once) - Counter(wanted)
        wrong.append(f"{receiver}: never came: {list(lost)}; not in the log, or out of its order: {list(odd)}")
    excuses = list(kills)
    repeated = 0
    for before, item in pairwise(arrivals):
        if before.key != item.key:
            continue
        repeated += 1
        excuse = next((kill for kill in excuses if before.at - _SLACKNESS_SECONDS < kill < item.at), None)
        if excuse is None:
            wrong.append(f"{receiver}: {item.key} came again after {item.at - before.at:.1f} s, and no kill excuses it")
        else:
            excuses.remove(excuse)
    return Told(events=len(once), repeated=repeated, wrong=wrong)
