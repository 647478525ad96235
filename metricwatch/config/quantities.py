"""Durations, fractions and sizes as people write them: 250ms, 10m, 4h; 10% or 0.1; 500MB, 2GB."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>ms|s|m|h|d)?", re.ASCII)
_SIZES = {
    "B": 1,
    **{f"{letter}B": 1000 ** (power + 1) for power, letter in enumerate("KMGT")},
    **{f"{letter}IB": 1024 ** (power + 1) for power, letter in enumerate("KMGT")},
}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[A-Za-z]*)", re.ASCII)
_LARGEST_SIZE = 2**62
_SHARE = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<percent>%)?", re.ASCII)


def parse_duration(value: object) -> timedelta:
    """A time span from 5 (seconds), "5s", "250ms", "10m", "4h", "1d" or a timedelta.

    Raises ValueError, without repeating the value, for anything else, negative spans included.
    """
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ValueError("a duration cannot be negative")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        amount, unit = float(value), "s"
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        amount, unit = float(match["number"]), match["unit"] or "s"
    else:
        raise ValueError("must be a duration such as 5s, 250ms, 10m, 4h or 1d")
    if not math.isfinite(amount) or amount < 0:
        raise ValueError("a duration must be a finite number, zero or more")
    try:
        return amount * _UNITS[unit]
    except OverflowError:
        raise ValueError("this duration is longer than any calendar") from None


def parse_fraction(value: object) -> float:
    """A share from "10%" or 0.1, as the same number 0.1.

    Raises ValueError, without repeating the value, for anything that is not a finite number.
    """
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    match = _SHARE.fullmatch(str(value).strip()) if plain else None
    if match is None:
        raise ValueError("must be a share such as 10% or 0.1")
    number = float(match["number"]) / 100 if match["percent"] else float(match["number"])
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def parse_size(value: object) -> int:
    """Bytes from 0, 1000000, "500MB", "1.5 GB" (powers of 1000) or "2GiB" (of 1024), whatever the letters' case.

    Raises ValueError, without repeating the value, for anything else, negative sizes included.
    """
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    match = _SIZE.fullmatch(str(value).strip()) if plain else None
    unit = _SIZES.get((match["unit"] or "B").upper()) if match else None
    if match is None or unit is None:
        raise ValueError("must be a size such as 500MB, 2GB or 2GiB, or 0")
    number = float(match["number"]) * unit
    if number > _LARGEST_SIZE:
        raise ValueError("this size is larger than any disk")
    return int(number)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than zero")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
Fraction = Annotated[float, BeforeValidator(parse_fraction)]
Size = Annotated[int, BeforeValidator(parse_size)]
