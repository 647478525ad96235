"""What makes a rule the one that it is, and what of it an alert carries."""

from __future__ import annotations

import hashlib

from metricwatch.config.rules import BaseRule, Rule, StateRule
from metricwatch.records import Direction, Severity

# How it is told, and to whom: whoever changes these does not change what the rule says of a curve.
_WORDING = frozenset({"receivers", "message", "labels", "severity", "runs"})
# Of every kind; they count only where they are set, so that a ledger knows its rules again when there are more of them.
_GENERIC = ("in_a_row", "warmup", "keep_firing")


def definition(rule: Rule) -> str:
    """A digest that changes when the rule would say something else of a curve, and with nothing else.

    Ledgers hold it: what it is for a given rule must stay the same in later versions.
    """
    own = set(type(rule).model_fields) - _WORDING - set(_GENERIC)
    set_here = {
        name
        for name in _GENERIC
        # A rule on states has always had its `for`.
        if (isinstance(rule, StateRule) and name == "in_a_row")
        or getattr(rule, name) != BaseRule.model_fields[name].default
    }
    parts = [rule.model_dump_json(include=names)[1:-1] for names in (own, set_here) if names]
    return hashlib.blake2b(f"{{{','.join(parts)}}}".encode(), digest_size=8).hexdigest()


def severity(rule: Rule, direction: Direction) -> Severity:
    """How grave an alert of a rule is: as the rule says, else by its direction."""
    return rule.severity or ("critical" if direction == "worse" else "info")
