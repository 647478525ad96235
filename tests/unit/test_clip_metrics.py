"""CLIP's metrics on embeddings made up here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.api import Batch, ConfigError, PerImageMetric, ScoreState, Value
from metricwatch.config.options import bind_options
from metricwatch.metrics.clip import ClipScore, ClipStyleOptions, ClipStyleScore, ClipStyleSimilarity

CLIP = "clip-vit-b-32"
# Directions whose cosines can be read off.
TEXTS = {
    "a cubist painting": (1.0, 0.0, 0.0),
    "a photo": (0.0, 1.0, 0.0),
    "a sketch": (0.0, 0.0, 1.0),
    "the opposite": (-1.0, 0.0, 0.0),
}


def batch_of(
    images: list[tuple[float, ...]], prompts: tuple[str, ...] = (), styles: list[tuple[float, ...]] | None = None
) -> Batch:
    return Batch(
        names=tuple(f"{index}" for index in range(len(images))),
        prompts=prompts,
        features={CLIP: torch.tensor(images)},
        style_features={CLIP: torch.tensor(styles)} if styles else {},
        text_features={CLIP: {text: torch.tensor(row) for text, row in TEXTS.items()}},
    )


def score(metric: PerImageMetric, *batches: Batch) -> Value:
    for batch in batches:
        metric.update(batch)
    (value,) = metric.compute()
    return value


def test_the_clip_score_is_a_hundred_times_the_cosine() -> None:
    value = score(ClipScore(), batch_of([(3.0, 4.0, 0.0)], ("a cubist painting",)))
    assert value.value == pytest.approx(60.0, rel=1e-12)


def test_the_clip_score_of_an_image_is_not_below_zero() -> None:
    value = score(ClipScore(), batch_of([(3.0, 4.0, 0.0), (2.0, 0.0, 0.0)], ("the opposite", "a cubist painting")))
    assert value.value == pytest.approx((0.0 + 100.0) / 2)


def test_each_image_is_compared_with_its_own_prompt() -> None:
    images = [(3.0, 4.0, 0.0), (3.0, 4.0, 0.0), (3.0, 4.0, 0.0)]
    prompts = ("a photo", "a cubist painting", "a sketch")
    rows = ClipScore().measure(batch_of(images, prompts))
    assert [row[0] for row in rows] == pytest.approx([80.0, 60.0, 0.0])


def test_the_clip_score_without_prompts_is_a_named_state() -> None:
    (value,) = ClipScore().compute()
    assert (value.state, value.detail) == (ScoreState.NO_PAIRS, "no image came with a prompt")


def test_the_style_score_is_a_softmax_at_a_hundred_over_style_and_contrast() -> None:
    options = ClipStyleOptions(prompt="a cubist painting", contrast=("a photo", "a sketch"))
    image = (0.60, 0.58, 0.55)
    cosines = np.array(image) / np.linalg.norm(image)
    expected = np.exp(100 * cosines[0]) / np.exp(100 * cosines).sum()
    value = score(ClipStyleScore(options=options), batch_of([image]))
    assert value.value == pytest.approx(expected, rel=1e-6)
    assert 0.5 < expected < 0.95


def test_the_style_score_takes_the_images_own_prompts_where_the_option_names_none() -> None:
    images = [(0.60, 0.60, 0.0), (0.0, 0.61, 0.60)]
    rows = ClipStyleScore().measure(batch_of(images, ("a cubist painting", "a sketch")))
    assert rows[0][0] == pytest.approx(0.5)
    assert rows[1][0] < 0.5


def test_an_option_overrules_the_images_own_prompts() -> None:
    options = ClipStyleOptions(prompt="a cubist painting")
    images = [(0.60, 0.60, 0.0), (0.61, 0.60, 0.0)]
    own = batch_of(images, ("a sketch", "a photo"))
    assert score(ClipStyleScore(options=options), own) == score(ClipStyleScore(options=options), batch_of(images))


def test_the_fixed_texts_are_those_of_the_options() -> None:
    assert ClipStyleScore().texts() == ("a photo",)
    options = ClipStyleOptions(prompt="a cubist painting", contrast=("a photo", "a sketch"))
    assert ClipStyleScore(options=options).texts() == ("a cubist painting", "a photo", "a sketch")


def test_a_style_score_without_any_prompt_says_what_to_configure() -> None:
    value = score(ClipStyleScore(), batch_of([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]))
    assert (value.state, value.value, value.images) == (ScoreState.NO_PAIRS, None, 0)
    assert value.detail == (
        "left out for want of a prompt: 0, 1; "
        "name the style by the option prompt of clip_style_score, or give the images prompts"
    )


def test_images_without_a_prompt_of_their_own_are_left_out_and_named() -> None:
    images = [(0.60, 0.60, 0.0), (0.0, 0.61, 0.60), (1.0, 0.0, 0.0)]
    value = score(ClipStyleScore(), batch_of(images, ("a cubist painting", "", "a photo")))
    assert (value.state, value.images) == (ScoreState.OK, 1)
    assert value.value == pytest.approx(0.5)
    assert value.detail == (
        "left out for a prompt that is a contrast prompt, 'a photo': 2; left out for want of a prompt: 1"
    )


def test_no_image_at_all_is_another_state() -> None:
    (value,) = ClipStyleScore().compute()
    assert (value.state, value.detail) == (ScoreState.TOO_FEW_IMAGES, "no image was seen")


def test_left_out_images_survive_a_merge() -> None:
    metric, other = ClipStyleScore(), ClipStyleScore()
    other.update(batch_of([(1.0, 0.0, 0.0)]))
    metric.merge(other)
    (value,) = metric.compute()
    assert value.state is ScoreState.NO_PAIRS


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"contrast": []}, "contrast is empty"),
        ({"prompt": "a sketch", "contrast": ["a photo", "a sketch"]}, "'a sketch' itself"),
        ({"contrast": "a photo"}, "contrast"),
    ],
)
def test_options_that_cannot_work_are_configuration_errors(raw: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        bind_options(ClipStyleOptions, raw, "metrics.clip_style_score")


def test_options_are_read_from_a_configuration() -> None:
    raw = {"prompt": "a cubist painting", "contrast": ["a photo", "a sketch"]}
    assert bind_options(ClipStyleOptions, raw, "metrics.clip_style_score") == ClipStyleOptions(
        prompt="a cubist painting", contrast=("a photo", "a sketch")
    )


def test_the_style_similarity_is_the_cosine_with_the_style_image() -> None:
    images = [(3.0, 4.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0)]
    styles = [(1.0, 0.0, 0.0), (-2.0, 0.0, 0.0), (5.0, 5.0, 0.0)]
    rows = ClipStyleSimilarity().measure(batch_of(images, styles=styles))
    assert [row[0] for row in rows] == pytest.approx([0.6, -1.0, 1.0])


def test_the_style_similarity_without_style_images_is_a_named_state() -> None:
    (value,) = ClipStyleSimilarity().compute()
    assert (value.state, value.detail) == (ScoreState.NO_PAIRS, "no image came with a style partner")


@pytest.mark.parametrize("metric", [ClipScore, ClipStyleScore, ClipStyleSimilarity])
def test_an_embedding_without_a_direction_is_a_named_state(metric: type[PerImageMetric]) -> None:
    images = [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    batch = batch_of(images, ("a cubist painting", "a sketch"), styles=[(1.0, 0.0, 0.0)] * 2)
    value = score(metric(), batch)
    assert (value.state, value.detail) == (ScoreState.NON_FINITE, f"{metric.spec.keys[0]} is not finite for 1")


@given(
    images=st.lists(
        st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3).filter(lambda row: max(map(abs, row)) > 1e-6),
        min_size=1,
        max_size=5,
    ),
    text=st.sampled_from([text for text in TEXTS if text != "a photo"]),
)
def test_any_directions_give_scores_in_their_range_whatever_the_batches(
    images: list[tuple[float, ...]], text: str
) -> None:
    batch = batch_of(images, (text,) * len(images), styles=images)
    for metric, lowest, highest in (
        (ClipScore, 0.0, 100.0),
        (ClipStyleScore, 0.0, 1.0),
        (ClipStyleSimilarity, -1.0, 1.0),
    ):
        whole = score(metric(), batch)
        assert whole.value is not None
        assert lowest <= whole.value <= highest
        apart = score(metric(), *(batch.select([row]) for row in reversed(range(len(images)))))
        assert apart.value == pytest.approx(whole.value, rel=1e-12, abs=1e-300)
    assert score(ClipStyleSimilarity(), batch).value == pytest.approx(1.0, abs=1e-12)
