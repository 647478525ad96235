"""Matchers on labels, as Alertmanager and amtool write them: severity=critical, run=~"debug-.*", team!=vision."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationInfo

from metricwatch import catalog
from metricwatch.config.context import context_of
from metricwatch.config.label_expressions import compiled, fully_matches
from metricwatch.config.secrets import quoted

Operator = Literal["=", "!=", "=~", "!~"]

# The labels that every alert has, whatever its rule adds.
BUILT_IN_LABELS = ("alertname", "run", "metric", "severity", "direction", "kind")

EXAMPLE = 'write for example severity=critical, team!=vision, run=~"debug-.*" or run!~"debug-.*"'

_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPERATOR = re.compile(r"=~|!~|!=|=")
_NEXT_MATCHER = re.compile(r",\s*[A-Za-z_][A-Za-z0-9_]*\s*(?:=|!=|!~)", re.ASCII)
_SPACE = re.compile(r"\s*")
# Labels of which every value is known: a slip of the pen would match nothing, and nobody would notice.
_VALUES = {
    "severity": ("critical", "warning", "info"),
    "direction": ("worse", "better"),
    "kind": ("moves", "above", "below", "z_score", "stale", "nonfinite", "state"),
}


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label. An expression is anchored: it must match the whole value.

    Raises ValueError where an expression is none, or may take for ever.
    """

    label: str
    operator: Operator
    value: str
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = compiled(self.value) if self.operator in {"=~", "!~"} else None
        object.__setattr__(self, "_pattern", pattern)

    def holds(self, value: str) -> bool:
        """True when a label of this value satisfies it."""
        found = value == self.value if self._pattern is None else fully_matches(self._pattern, value)
        return found is (self.operator in {"=", "=~"})

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True when these labels satisfy it. A label that is not there is like one that is empty."""
        return self.holds(labels.get(self.label, ""))

    def __str__(self) -> str:
        return f"{self.label}{self.operator}{json.dumps(self.value, ensure_ascii=False)}"


def parse_matcher(text: str) -> Matcher:
    r"""The matcher that a text means; the value may stand in double quotes, with \" and \\ in it.

    Raises ValueError that says at which character it goes wrong, without repeating the value.
    """
    start = _end(_SPACE, text, 0)
    label = _LABEL.match(text, start)
    if label is None:
        raise ValueError(f"at character {start + 1}: the name of a label must stand here; {EXAMPLE}")
    at = _end(_SPACE, text, label.end())
    operator = _OPERATOR.match(text, at)
    if operator is None:
        raise ValueError(f"at character {at + 1}: one of = != =~ !~ must follow the label's name; {EXAMPLE}")
    if text.startswith("==", operator.start()):
        raise ValueError(f"at character {at + 2}: one = is enough; a value that begins with = stands in double quotes")
    at = _end(_SPACE, text, operator.end())
    value = _quoted_value(text, at) if text[at : at + 1] == '"' else _bare_value(text, at)
    try:
        return Matcher(label.group(), operator.group(), value)  # type: ignore[arg-type] # the expression knows no other
    except ValueError as error:
        raise ValueError(f"at character {at + 1}: {error}") from None


def parse_matchers(texts: Iterable[str]) -> tuple[Matcher, ...]:
    """The matchers that texts mean. Raises ValueError as parse_matcher does."""
    return tuple(parse_matcher(text) for text in texts)


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """True when labels satisfy every one of them; also when there is none."""
    # A loop: it is asked for every alert of every silence.
    for matcher in matchers:  # noqa: SIM110
        if not matcher.matches(labels):
            return False
    return True


def contradiction(matchers: Sequence[Matcher]) -> tuple[Matcher, Matcher] | None:
    """Two matchers that no alert can satisfy together, as far as that is plain: one of them names the value."""
    for one, other in permutations(matchers, 2):
        if one.operator == "=" and one.label == other.label and not other.holds(one.value):
            return one, other
    return None


def labels_of_rules(rules: Any) -> tuple[str, ...]:
    """The labels that alerts of these rules may have. rules is as in the file: a list of mappings, if all is well."""
    found = set(BUILT_IN_LABELS)
    for rule in rules if isinstance(rules, list) else ():
        runs = rule.get("runs") if isinstance(rule, dict) else None
        for part in (rule, *(runs.values() if isinstance(runs, dict) else ())):
            labels = part.get("labels") if isinstance(part, dict) else None
            if isinstance(labels, dict):
                found.update(str(label) for label in labels)
    return tuple(sorted(found))


def known_label(label: str, info: ValidationInfo[Any]) -> str:
    """The label. Raises ValueError, with the nearest name, where no alert of this configuration has it."""
    known = context_of(info).labels
    if known is not None and label not in known:
        raise ValueError(f"no alert has a label {quoted(label)}; {catalog.did_you_mean(label, known)}")
    return label


def refuse_unknown_value(matcher: Matcher) -> None:
    """Raise ValueError, with the nearest value, for a matcher on a label of known values that fits none of them."""
    values = _VALUES.get(matcher.label)
    if values is None:
        return
    if matcher.operator in {"=", "!="} and matcher.value not in values:
        hint = catalog.did_you_mean(matcher.value, values)
        raise ValueError(f"no alert has the {matcher.label} {quoted(matcher.value)}; {hint}")
    if matcher.operator == "=~" and not any(map(matcher.holds, values)):
        hint = catalog.did_you_mean(matcher.value, values)
        raise ValueError(f"no alert has a {matcher.label} that {quoted(matcher.value)} matches; {hint}")


def _known(text: str, info: ValidationInfo[Any]) -> str:
    matcher = parse_matcher(text)
    known_label(matcher.label, info)
    refuse_unknown_value(matcher)
    return text


# A matcher in the configuration, on a label that its alerts have.
MatcherText = Annotated[str, AfterValidator(_known)]


def _quoted_value(text: str, start: int) -> str:
    value: list[str] = []
    characters = iter(enumerate(text[start + 1 :], start=start + 1))
    for at, character in characters:
        if character == '"':
            end = _end(_SPACE, text, at + 1)
            if end < len(text):
                raise ValueError(f"at character {end + 1}: nothing may follow the closing quote; one matcher an item")
            return "".join(value)
        if character == "\\":
            _, escaped = next(characters, (0, ""))
            # As in Alertmanager; what escapes nothing is part of the value, as expressions need it.
            value.append({'"': '"', "\\": "\\", "n": "\n"}.get(escaped, "\\" + escaped))
        else:
            value.append(character)
    raise ValueError(f"at character {start + 1}: the quote that opens here is never closed")


def _bare_value(text: str, start: int) -> str:
    if (second := _NEXT_MATCHER.search(text, start)) is not None:
        raise ValueError(f"at character {second.start() + 1}: a second matcher begins; write each one as its own item")
    if (quote := text.find('"', start)) >= 0:
        raise ValueError(f"at character {quote + 1}: a quote in the middle of a value; put the whole value in quotes")
    return text[start:].rstrip()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
