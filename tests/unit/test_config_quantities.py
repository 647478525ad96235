"""Durations, shares and sizes as people write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.config import parse_duration, parse_fraction, parse_size

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (5, timedelta(seconds=5)),
        (0.5, timedelta(milliseconds=500)),
        ("5", timedelta(seconds=5)),
        ("5s", timedelta(seconds=5)),
        ("250ms", timedelta(milliseconds=250)),
        ("10m", timedelta(minutes=10)),
        ("4h", timedelta(hours=4)),
        ("1d", timedelta(days=1)),
        (" 1.5 h ", timedelta(minutes=90)),
        (timedelta(seconds=7), timedelta(seconds=7)),
    ],
)
def test_a_duration_is_read_as_it_is_meant(written, meant):
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "written", ["", "fast", "5 parsecs", "-5s", -1, True, None, [], "1e9999d", 1e300, math.inf, math.nan]
)
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)


@given(st.integers(0, 100_000), st.sampled_from(sorted(UNITS)))
def test_every_whole_number_of_a_unit_is_a_duration(number, unit):
    assert parse_duration(f"{number}{unit}").total_seconds() == pytest.approx(number * UNITS[unit])


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused_without_being_repeated(text):
    try:
        answer = parse_duration(text)
    except ValueError as error:
        answer = str(error)
    assert isinstance(answer, timedelta) or answer in {
        "must be a duration such as 5s, 250ms, 10m, 4h or 1d",
        "this duration is longer than any calendar",
        "a duration must be a finite number, zero or more",
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [("10%", 0.1), ("10 %", 0.1), (0.1, 0.1), ("0.1", 0.1), (1, 1.0), ("150%", 1.5), ("1e-3", 0.001), ("-5%", -0.05)],
)
def test_a_share_is_read_as_it_is_meant(written, meant):
    assert parse_fraction(written) == pytest.approx(meant)


@pytest.mark.parametrize("written", ["", "%", "ten", "10%%", "nan", "inf", True, None, math.nan, math.inf, "1e999"])
def test_what_is_no_share_is_refused(written):
    with pytest.raises(ValueError, match="must be"):
        parse_fraction(written)


@given(st.floats(0.001, 1e6))
def test_percent_and_fraction_say_the_same(share):
    assert parse_fraction(f"{share * 100!r}%") == pytest.approx(parse_fraction(share))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        ("0", 0),
        (1500, 1500),
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2GiB", 2 * 1024**3),
        ("10kb", 10_000),
        ("7 B", 7),
        ("1TB", 10**12),
    ],
)
def test_a_size_is_read_as_it_is_meant(written, meant):
    assert parse_size(written) == meant


@pytest.mark.parametrize("written", ["", "big", "-1", -1, "2XB", "GB", True, None, 1.5, [], "1e9", "99999999999TB"])
def test_what_is_no_size_is_refused(written):
    with pytest.raises(ValueError, match="size"):
        parse_size(written)


@given(st.integers(0, 100_000), st.sampled_from(["B", "KB", "MB", "GB", "MiB"]))
def test_sizes_grow_with_their_number(number, unit):
    assert parse_size(f"{number}{unit}") == number * parse_size(f"1{unit}")
