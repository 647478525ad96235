"""Regular expressions of matchers, without those that take for ever: Python's engine goes back and tries again."""

from __future__ import annotations

import re

# Longer ones nobody writes by hand.
LONGEST = 500
# Of a label's value an expression sees this many characters: where it goes back, every one more costs more.
MOST_SEEN = 300

_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}", re.ASCII)


def compiled(text: str) -> re.Pattern[str]:
    """The expression. Raises ValueError, without repeating it, for one that is wrong, long or may take for ever."""
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; at most {LONGEST} are taken")
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        reason = error.msg if isinstance(error, re.error) else "too large"
        raise ValueError(f"not a regular expression: {reason}") from None
    if pattern.flags & re.VERBOSE or "(?#" in text:
        raise ValueError("neither comments nor the flag x are taken in an expression; write it without")
    if _may_take_for_ever(text):
        raise ValueError(
            "a repeated group that holds a repeat or alternatives, such as (a+)+ or (a|b)*, may take for ever; "
            "write for example a+ or [ab]*"
        )
    return pattern


def fully_matches(pattern: re.Pattern[str], value: str) -> bool:
    """True when the expression matches the whole value, as far as expressions see one."""
    return pattern.fullmatch(value, 0, MOST_SEEN) is not None


def _may_take_for_ever(text: str) -> bool:
    """True where one part of a value may be shared out among the rounds of a group in many ways. text compiles."""
    # For each group that is open: does it hold a repeat or alternatives?
    groups = [False]
    at = 0
    while at < len(text):
        character, ended = text[at], False
        at += 1
        if character == "\\":
            at += 1
        elif character == "[":
            at = _end_of_set(text, at)
        elif character == "(":
            groups.append(False)
            # What follows a group's ? says what kind it is.
            at += text.startswith("?", at)
            continue
        elif character == ")":
            ended = groups.pop()
            groups[-1] |= ended
        elif character == "|":
            groups[-1] = True
            continue
        quantifier = _QUANTIFIER.match(text, at)
        if quantifier is None or quantifier.group() == "{}":
            continue
        at = quantifier.end()
        at += text.startswith(("?", "+"), at)
        if ended and quantifier.group() != "?":
            return True
        # {3}: there is only one way.
        groups[-1] |= quantifier[1] is None or bool(quantifier[2])
    return False


def _end_of_set(text: str, at: int) -> int:
    """Where the set ends whose bracket is before this position."""
    at += text.startswith("^", at)
    at += text.startswith("]", at)
    while text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at + 1
