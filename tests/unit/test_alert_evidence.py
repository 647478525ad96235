"""The benchmark of alert rules at a small size: what must hold whatever the seed, and that its report says what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.bench.alerts import report
from tests.bench.alerts.campaign import campaign
from tests.bench.alerts.contenders import BEST, CONTENDERS, DEFAULT, EACH, firings
from tests.bench.alerts.curves import LEVEL, SCENARIOS, Case, draw
from tests.bench.alerts.measures import Tally, measured, tally
from tests.bench.alerts.windows import chances

NOISY = [f"{DEFAULT}, beyond_noise {multiple}" for multiple in (2, 3, 4)]
MADE_OF_MOVES = [each.name for each in CONTENDERS if each.name.startswith("moves")]


@pytest.fixture(scope="module")
def document():
    return campaign(seed=7, curves=3, length=80, windows=20_000)


def value(document, scenario, rule, measure):
    return report.find(document["results"], scenario, rule)[measure]["value"]


def named(name):
    return next(each for each in SCENARIOS if each.name == name)


def test_a_break_by_half_is_found_within_five_evaluations_by_every_rule_that_looks_for_breaks(document):
    for rule in document["rules"]:
        result = report.find(document["results"], "break +50%, noise 1%", rule)
        if rule == EACH:
            assert result["found"]["value"] == 0, rule
        else:
            assert (result["found"]["value"], result["delay_p90"]["value"] < 5) == (1.0, True), rule


def test_noise_of_four_percent_is_no_alert_when_it_must_be_beyond_four_standard_errors(document):
    flat = "flat, noise 4.0%"
    false = [value(document, flat, rule, "false_per_1000") for rule in (DEFAULT, *NOISY)]
    assert false == sorted(false, reverse=True)
    assert false[-1] < 0.2 * false[0]
    assert value(document, flat, BEST, "false_per_1000") > false[0]


@pytest.mark.parametrize("scenario", [each.name for each in SCENARIOS])
def test_beyond_noise_never_fires_where_the_rule_without_it_does_not(document, scenario):
    firing = [value(document, scenario, rule, "firing_per_1000") for rule in (DEFAULT, *NOISY)]
    assert firing == sorted(firing, reverse=True)


@pytest.mark.parametrize("scenario", ["other N, steps", "other N, each time"])
def test_another_number_of_images_is_no_alert(document, scenario):
    assert {rule: value(document, scenario, rule, "false_per_1000") for rule in MADE_OF_MOVES} == dict.fromkeys(
        MADE_OF_MOVES, 0.0
    )


def test_a_bound_sees_a_break_whatever_the_number_of_images(document):
    scenario, rule = "break +50%, other N each time", "above +10%, for 2"
    assert (value(document, scenario, rule, "found"), value(document, scenario, rule, "delay")) == (1, 1)


@pytest.mark.parametrize("missing", ["5%", "20%"])
@pytest.mark.parametrize("rule", [DEFAULT, f"{DEFAULT}, beyond_noise 4", "z_score 6"])
def test_a_break_is_found_at_the_first_evaluation_with_a_value_however_many_have_failed(rule, missing):
    (contender,) = [each for each in CONTENDERS if each.name == rule]
    scenario = named(f"break +20%, {missing} gaps")
    for seed in range(40):
        case = draw(scenario, seed, 100)
        first = next(at for at in range(case.onset, 100) if case.series[at].value is not None)
        counted = tally(case, contender.judge(case.series), scenario.within)
        assert counted.delay == first - case.onset, seed


def test_without_standard_errors_beyond_noise_is_silent(document):
    scenario = "break +20%, no errors"
    assert value(document, scenario, DEFAULT, "found") == 1
    assert [value(document, scenario, rule, "found") for rule in NOISY] == [0, 0, 0]


def test_a_curve_is_its_seeds_alone_and_as_noisy_as_it_says():
    scenario = named("flat, noise 2.0%")
    cases = [draw(scenario, seed, 100) for seed in range(50)]
    assert cases[3] == draw(scenario, 3, 100) != draw(scenario, 4, 100)
    values = np.array([[item.value for item in case.series] for case in cases])
    errors = np.array([[item.stderr for item in case.series] for case in cases])
    assert values.std() / LEVEL == pytest.approx(0.02, rel=0.05)
    assert np.mean(np.abs(values - LEVEL) <= 2.093 * errors) == pytest.approx(0.95, abs=0.012)


def test_what_happens_is_counted_from_the_evaluation_that_shows_it():
    series = draw(named("break +20%, noise 1%"), 0, 12).series
    worse, better = "worse", "better"
    verdicts = ["", worse, worse, "", better, "", "", "", worse, "", worse, worse]
    assert [(each.direction, each.start, each.end) for each in firings(verdicts)] == [
        (worse, 1, 3),
        (better, 4, 5),
        (worse, 8, 9),
        (worse, 10, 12),
    ]
    assert tally(Case(series=series, onset=6), verdicts, 5) == Tally(
        quiet=6, false=1, firing=2, better=1, evaluations=12, event=True, delay=2, after=2
    )
    assert tally(Case(series=series, onset=6), verdicts, 2).delay is None
    at_once = tally(Case(series=series, onset=8), verdicts, 2)
    assert (at_once.false, at_once.delay, at_once.busy, at_once.after) == (1, 0, False, 2)
    assert tally(Case(series=series, onset=2), verdicts, 3) == Tally(
        quiet=2, false=1, firing=1, better=1, evaluations=12, event=True, busy=True, after=2
    )
    assert tally(Case(series=series, onset=None), verdicts, None).false == 3


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(5)
    held = {"false_per_1000": 0, "found": 0, "delay": 0}
    truth = {"false_per_1000": 50.0, "found": 0.8, "delay": 4}
    for _ in range(400):
        counted = [
            Tally(
                quiet=100,
                false=int(rng.poisson(5)),
                firing=0,
                better=0,
                evaluations=100,
                event=True,
                delay=int(rng.integers(0, 9)) if rng.random() < 0.8 else None,
            )
            for _ in range(100)
        ]
        found = measured(counted)
        for name, true in truth.items():
            held[name] += found[name]["low"] <= true <= found[name]["high"]
    assert all(count / 400 >= 0.92 for count in held.values()), held
    assert held["false_per_1000"] / 400 <= 0.98
    assert held["found"] / 400 <= 0.98


def test_nothing_seen_is_not_nothing_possible():
    counted = measured([Tally(quiet=100, false=0, firing=0, better=0, evaluations=100)] * 10)
    assert counted["false_per_1000"] == {"value": 0, "low": 0, "high": pytest.approx(3.69)}
    assert counted["found"] is None


def test_a_window_of_noise_exceeds_two_standard_errors_as_often_as_theory_says():
    rows = {(row["across"], row["mode"], row["direction"]): row for row in chances(50_000, seed=1)}
    # Student's t with 38 degrees of freedom beyond 2, and, for five values, the studentised range beyond 2 * sqrt(2).
    assert rows[5, "net", "any"]["exceeded"]["2"] == pytest.approx(0.0527, abs=0.004)
    assert 0.25 < rows[5, "range", "any"]["exceeded"]["2"] < 0.32
    assert rows[2, "range", "any"] == {**rows[2, "net", "any"], "mode": "range"}


def test_the_tables_hold_the_documents_numbers(document):
    document = json.loads(json.dumps(document))
    rows = table(report.compact(document))
    assert [row["rule"] for row in rows] == list(report.ROWS)
    for row in rows:
        for column, scenario in report.FALSE.items():
            shown = row[column]
            exact = report.find(document["results"], scenario, row["rule"])["false_per_1000"]["value"]
            assert float(shown) == pytest.approx(exact, rel=0.051)
        for column, scenario in report.FOUND.items():
            result = report.find(document["results"], scenario, row["rule"])
            share, _, delay = row[column].partition("%, ")
            assert float(share.rstrip("%")) == round(100 * result["found"]["value"])
            assert delay == ("" if result["delay"] is None else f"{result['delay']['value']:.0f}")
    for row in table(report.by_noise(document)):
        exact = report.find(document["results"], "flat, noise 4.0%", row["rule"])["false_per_1000"]["value"]
        assert float(row["4.0%"]) == pytest.approx(exact, rel=0.051)
    for name in document["scenarios"]:
        (section,) = [part for part in report.details(document).split("#### ") if part.startswith(f"{name} (")]
        for row in table(section):
            exact = report.find(document["results"], name, row["rule"])["firing_per_1000"]
            assert float(row["firing per 1,000"].split()[0]) == pytest.approx(exact["value"], rel=0.051)
            assert row["firing per 1,000"].endswith(f"({exact['low']:.2f} to {exact['high']:.2f})")
    for row, exact in zip(table(report.windows(document)), document["windows"], strict=True):
        assert float(row["beyond 2"].rstrip("%")) == pytest.approx(100 * exact["exceeded"]["2"], abs=0.0051)
        assert float(row["0.1% of windows"]) == pytest.approx(exact["needed"]["0.001"], abs=0.0051)


def table(text):
    """The rows of the one table in a text, by the names of its columns."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]
