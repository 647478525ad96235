"""Composites: read from the configuration, computed over an evaluation's scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.config import Composite, Config, load_config
from metricwatch.errors import ConfigError
from metricwatch.records import Score, ScoreState
from metricwatch.supervisor.composites import progress_at, with_composites

BASE = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - run: {name: a, total_steps: 1000}
    samples: a/*
metrics: [fid, ssim]
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str, **environ: str) -> Config:
        file = tmp_path / "c.yaml"
        file.write_text(text)
        return load_config(file, environ=environ)

    return read


@pytest.fixture
def problems(read, tmp_path):
    def problems(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        return [line.removeprefix(f"{tmp_path / 'c.yaml'}: ") for line in str(caught.value).splitlines()]

    return problems


# --- in the configuration ----------------------------------------------------------------------------------


def test_a_composite_is_an_expression_or_a_mapping_with_one(read):
    config = read(BASE + 'composites: {q: "fid/100 - ssim", r: {expression: "p*ssim", higher_is_better: true}}')
    assert list(config.composites) == ["q", "r"]
    assert (config.composites["q"].higher_is_better, config.composites["r"].higher_is_better) == (False, True)
    assert config.composites["r"].parsed.names == {"p", "ssim"}


def test_a_composite_may_stand_on_several_lines_and_use_parts_of_a_metric(read):
    base = BASE.replace("ssim]", "ssim, gram_style_loss]")
    composite = read(base + "composites:\n  q: >\n    0.5*gram_style_loss_relu3_1\n    + 0.5*ssim\n").composites["q"]
    assert composite.parsed.names == {"gram_style_loss_relu3_1", "ssim"}


def test_a_rule_may_watch_a_composite(read):
    rule = "rules: [{name: r, metric: composite_q, moves: 10%, across: 5}]"
    assert read(BASE + f"composites: {{q: fid}}\n{rule}").rules[0].metric == "composite_q"


@pytest.mark.parametrize(
    ("composites", "line"),
    [
        ("{q: 'fdi'}", "composites.q: unknown name 'fdi'; did you mean 'fid'?"),
        ("{q: 'fd_efficientnet_lite0'}", "composites.q: metric 'fd_efficientnet_lite0' is not computed; add it to met"),
        ("{q: 'fid_inf'}", "composites.q: metric 'fid_inf' is not computed; add it to metrics"),
        ("{q: 'fid_part'}", "composites.q: unknown name 'fid_part'"),
        ("{q: fid, r: '2*q'}", "composites.r: refers to the composite 'q'; a composite is made of metrics, not of co"),
        ("{q: fid, r: 'composite_q'}", "composites.r: refers to the composite 'composite_q'"),
        ("{q: 'fid + open(1)'}", "composites.q: 'open' is not a function; there are min(a, b, ...)"),
        ("{q: 'fid/0'}", "composites.q: has no value: division by zero in 'fid/0'"),
        ("{q: {expression: 'fid/(1 - 1)'}}", "composites.q: has no value: division by zero in 'fid/(1 - 1)'"),
        ("{q: '0.5*p'}", "composites.q: names no metric"),
        ("{q: 3}", "composites.q: must be an expression such as 0.5*fid/100, or a mapping that holds one"),
        ("{q: {higher_is_better: true}}", "composites.q.expression: required, but not given"),
        ("{q: {expression: fid, lower_is_better: true}}", "composites.q.lower_is_better: unknown key; did you mean 'h"),
        ("{'a b': fid}", "composites.a b: a composite's name must be made of letters, digits and _ only"),
        ("{" + "q" * 91 + ": fid}", f"composites.{'q' * 91}: a composite's name must have at most 90 characters"),
        ("{q: fid, q_stderr: ssim}", "composites.q_stderr: is the name of another composite's standard error"),
        ("[fid]", "composites: must be a mapping of keys to values"),
    ],
)
def test_a_bad_composite_is_answered_at_its_place(problems, composites, line):
    (found,) = problems(BASE + f"composites: {composites}")
    assert found.startswith(line)


def test_a_rule_on_an_unknown_composite_names_the_nearest(problems):
    rule = "rules: [{name: r, metric: composite_qualty, state: any}]"
    assert problems(BASE + f"composites: {{quality: fid}}\n{rule}") == [
        "rules[0].metric: unknown metric 'composite_qualty'; did you mean 'composite_quality'?"
    ]


def test_progress_needs_the_length_of_every_run(problems, read):
    composites = "composites: {q: 'p*fid', r: 'fid'}\n"
    assert read(BASE + composites).composites["q"].parsed.names == {"p", "fid"}
    (line,) = problems(BASE.replace("metrics:", "  - run: {name: b}\n    samples: b/*\nmetrics:") + composites)
    assert line.startswith("composites.q: p is step / total_steps, and watch[1].run says no total_steps; write run:")


def test_a_composite_can_be_overridden_from_the_environment(read):
    config = read(BASE + "composites: {q: fid}", METRICWATCH_COMPOSITES__Q="0.5*ssim")
    assert config.composites["q"].expression == "0.5*ssim"


# --- over an evaluation ------------------------------------------------------------------------------------


def score(key: str, value: float | None = 1.0, **fields) -> Score:
    defaults = {"images": 100, "higher_is_better": False, "stderr": 0.1, "series": f"{key}-1"}
    if value is None:
        defaults |= {"state": ScoreState.COLLAPSED, "detail": "all the same", "stderr": None}
    return Score(key=key, value=value, **{**defaults, **fields})


def composite(expression: str, **fields) -> Composite:
    return Composite(expression=expression, **fields)


def compute(expression: str, *scores: Score, p: float | None = None, **fields) -> Score:
    return with_composites(scores, {"q": composite(expression, **fields)}, p)[-1]


def test_a_composite_is_a_score_behind_the_others():
    scores = with_composites(
        [score("fid", 40.0), score("ssim", 0.8)], {"q": composite("0.3*(1 - ssim) + fid/100")}, 0.5
    )
    assert [each.key for each in scores] == ["fid", "ssim", "composite_q"]
    assert scores[-1].value == pytest.approx(0.46)
    assert (scores[-1].higher_is_better, scores[-1].state, scores[-1].images) == (False, ScoreState.OK, 100)


def test_weights_change_with_progress():
    balance = "0.8*(1 - p)*content_loss + (0.6*p + 0.2)*gram_style_loss"
    at = {
        p: compute(balance, score("content_loss", 1.0), score("gram_style_loss", 2.0), p=p).value
        for p in (0.0, 0.5, 1.0)
    }
    assert at == {0.0: pytest.approx(1.2), 0.5: pytest.approx(1.4), 1.0: pytest.approx(1.6)}


@pytest.mark.parametrize(
    ("step", "total", "p"), [(0, 1000, 0.0), (250, 1000, 0.25), (1000, 1000, 1.0), (9000, 1000, 1.0), (5, None, None)]
)
def test_progress_is_the_share_of_the_run_and_never_more_than_all(step, total, p):
    assert progress_at(step, total) == p


def test_its_images_are_the_fewest_of_its_components():
    assert compute("fid + ssim", score("fid", images=99), score("ssim", images=64), score("kid", images=3)).images == 64


def test_a_component_without_a_value_is_named_with_its_state():
    found = compute("fid + ssim + lpips", score("fid", None), score("ssim"))
    assert (found.value, found.stderr, found.state) == (None, None, ScoreState.NO_INPUT)
    assert found.detail == "fid has no value: collapsed (all the same); lpips is not among the scores"


def test_progress_that_nobody_knows_is_a_state():
    found = compute("p*fid", score("fid"))
    assert (found.state, found.value) == (ScoreState.NO_INPUT, None)
    assert found.detail.startswith("p is not known")


def test_arithmetic_without_a_result_is_a_state_and_says_with_which_numbers():
    found = compute("1/(fid - ssim)", score("fid", 2.0), score("ssim", 2.0))
    assert (found.state, found.value, found.stderr) == (ScoreState.NON_FINITE, None, None)
    assert found.detail == "division by zero in '1/(fid - ssim)', with fid = 2, ssim = 2"


def test_its_standard_error_is_the_sum_of_those_of_its_components():
    found = compute("3*fid - 2*ssim", score("fid", stderr=0.1), score("ssim", stderr=0.05))
    assert found.stderr == pytest.approx(0.4)


def test_without_the_noise_of_a_component_that_matters_there_is_none():
    assert compute("fid + ssim", score("fid"), score("ssim", stderr=None)).stderr is None
    assert compute("fid + 0*ssim", score("fid"), score("ssim", stderr=None)).stderr == pytest.approx(0.1)
    assert compute("max(fid, ssim)", score("fid", 3.0), score("ssim", 1.0, stderr=None)).stderr == pytest.approx(0.1)
    assert compute("sqrt(fid)", score("fid", 0.0)).stderr is None


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(-1, 1))
def test_no_correlation_makes_the_noise_of_a_weighted_sum_larger_than_the_bound(a, b, sigma_x, sigma_y, rho):
    found = compute(f"({a})*x + ({b})*y", score("x", stderr=sigma_x), score("y", stderr=sigma_y))
    variance = (a * sigma_x) ** 2 + (b * sigma_y) ** 2 + 2 * rho * a * b * sigma_x * sigma_y
    assert found.stderr >= math.sqrt(max(variance, 0)) - 1e-9


def series(expression: str = "fid + ssim", *scores: Score, **options) -> str:
    return with_composites(scores or PLAIN, {"q": composite(expression)}, 0.5, **options)[-1].series


PLAIN = (score("fid"), score("ssim"))


def test_its_series_changes_with_the_expression_and_with_any_components_series():
    first = series()
    assert first == series("(fid+ssim)")
    assert first == series("fid + ssim", score("fid", 9.0), score("ssim"), score("kid"))
    assert first != series("fid + 2*ssim")
    assert first != series("fid + ssim", score("fid", series="fid-2"), score("ssim"))
    assert first != with_composites(PLAIN, {"q": composite("fid + ssim", higher_is_better=True)}, 0.5)[-1].series
    assert first != with_composites(PLAIN, {"r": composite("fid + ssim")}, 0.5)[-1].series


def test_another_length_of_the_run_matters_where_progress_does():
    assert series("p*fid", total_steps=1000) != series("p*fid", total_steps=2000)
    assert series("fid", total_steps=1000) == series("fid", total_steps=2000)


def test_its_provenance_is_the_expression_and_that_of_its_components():
    fid = score("fid", provenance={"reference_digest": "a1", "precision": "exact", "device": "cpu"})
    ssim = score("ssim", provenance={"protocol": "11x11", "precision": "exact", "device": "cpu"})
    assert compute("fid+ssim", fid, ssim).provenance == {
        "expression": "fid + ssim",
        "better": "lower",
        "precision": "exact",
        "device": "cpu",
        "fid.reference_digest": "a1",
        "ssim.protocol": "11x11",
    }


def test_the_arithmetic_needs_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, metricwatch.supervisor.composites, metricwatch.config; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'scipy')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
