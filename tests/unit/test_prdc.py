"""Precision, recall, density and coverage against their definitions, and the laws that they obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.api import Batch, ConfigError, ExtractorInfo, InputError, ScoreState, Value
from metricwatch.metrics import prdc
from metricwatch.metrics.prdc import NeighbourOptions, Prdc, on_extractor

D = 6
KEYS = ("precision_small", "recall_small", "density_small", "coverage_small")
Small = on_extractor(ExtractorInfo(name="small", key="small", dimensions=D))


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, D)) + shift).astype(np.float32)


def on_a_grid(n: int, seed: int) -> np.ndarray:
    """Whole numbers from 0 to 2: duplicates, ties and images on the edge of a ball in plenty, and no rounding."""
    return np.random.default_rng(seed).integers(0, 3, size=(n, D)).astype(np.float32)


def batch(rows: np.ndarray, names: list[str] | None = None) -> Batch:
    names = names or [f"{index:05d}" for index in range(len(rows))]
    return Batch(names=tuple(names), features={"small": torch.from_numpy(rows)})


def statistics(rows: np.ndarray) -> Any:
    metric = Small()
    metric.update(batch(rows))
    return metric.statistics()


def score(
    rows: np.ndarray,
    reference: Any,
    names: list[str] | None = None,
    cuts: tuple[int, ...] = (),
    options: NeighbourOptions | None = None,
) -> dict[str, Value]:
    metric = Small(reference, options)
    names = names or [f"{index:05d}" for index in range(len(rows))]
    for part, part_names in zip(np.split(rows, cuts), np.split(np.array(names), cuts), strict=True):
        metric.update(batch(part, part_names.tolist()))
    return {value.key: value for value in metric.compute()}


def numbers(values: dict[str, Value]) -> list[float | None]:
    return [values[key].value for key in KEYS]


def squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((one.astype(np.float64)[:, None] - other.astype(np.float64)[None]) ** 2).sum(axis=2)


def by_definition(rows: np.ndarray, reference: np.ndarray, k: int = 3, density_k: int = 5) -> list[float]:
    def radii(own: np.ndarray, which: int) -> np.ndarray:
        distances = squared(own, own)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, which - 1]

    distances = squared(rows, reference)
    open_balls = distances < radii(reference, density_k)
    return [
        (distances <= radii(reference, k)).any(axis=1).mean(),
        (distances <= radii(rows, k)[:, None]).any(axis=0).mean(),
        open_balls.sum() / density_k / len(rows),
        open_balls.any(axis=0).mean(),
    ]


@pytest.mark.parametrize(("n", "m"), [(6, 6), (40, 100), (100, 40)])
def test_they_are_what_the_papers_define(n: int, m: int) -> None:
    rows, reference = features(n, seed=1, shift=0.3), features(m, seed=2)
    assert numbers(score(rows, statistics(reference))) == pytest.approx(by_definition(rows, reference), rel=1e-12)


@settings(max_examples=40)
@given(n=st.integers(6, 50), m=st.integers(6, 50), seed=st.integers(0, 2**32 - 1))
def test_duplicates_and_edges_fall_where_the_definition_has_them(n: int, m: int, seed: int) -> None:
    """Closed balls hold their edge, open ones do not: on whole numbers every second comparison is a tie."""
    rows, reference = on_a_grid(n, seed), on_a_grid(m, seed + 1)
    rows[0], rows[1] = 0.0, 2.0
    assert numbers(score(rows, statistics(reference))) == pytest.approx(by_definition(rows, reference), rel=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 100.0]))
def test_the_same_picture_is_at_distance_zero_exactly(seed: int, shift: float) -> None:
    """Five copies of each reference image: its ball of k = 3 is a point, which holds that picture and nothing else.

    By inner products alone a copy would be some 1e-13 away, on either side of 0.
    """
    originals = features(12, seed, shift)
    rows = np.concatenate((originals[:7], features(9, seed + 1, shift)))
    values = score(rows, statistics(np.repeat(originals, 5, axis=0)))
    assert values["precision_small"].value == 7 / 16
    assert numbers(values) == pytest.approx(by_definition(rows, np.repeat(originals, 5, axis=0)), rel=1e-12)


@settings(max_examples=20)
@given(n=st.integers(6, 50), seed=st.integers(0, 2**32 - 1))
def test_a_set_covers_itself(n: int, seed: int) -> None:
    """Every image is in its own ball, and in those of the k nearest to it that reach so far."""
    rows = features(n, seed)
    values = score(rows, statistics(rows))
    assert numbers(values)[:2] == [1.0, 1.0]
    assert numbers(values)[2:] == pytest.approx([1.0, 1.0])


def test_sets_far_apart_share_nothing() -> None:
    assert numbers(score(features(20, seed=1, shift=100.0), statistics(features(20, seed=2)))) == [0.0] * 4


@pytest.mark.parametrize(("k", "density_k"), [(1, 1), (5, 3), (20, 20)])
def test_one_references_statistics_serve_any_k(k: int, density_k: int) -> None:
    rows, reference = features(40, seed=1, shift=0.3), features(50, seed=2)
    options = NeighbourOptions(neighbours=k, density_neighbours=density_k)
    found = numbers(score(rows, statistics(reference), options=options))
    assert found == pytest.approx(by_definition(rows, reference, k, density_k), rel=1e-12)


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"density_neighbours": 21}])
def test_a_k_out_of_range_is_a_configuration_error(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"precision_small: {name} is {options[name]}; it must be from 1 to 20"):
        Small(None, NeighbourOptions(**options))


def test_the_size_of_the_tiles_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, reference = on_a_grid(60, seed=1), on_a_grid(45, seed=2)
    kept = statistics(reference)
    expected = score(rows, kept)
    for size in (1, 7, 15, 20):
        monkeypatch.setattr(prdc, "_ROWS", size)
        monkeypatch.setattr(prdc, "_PAIRS", size)
        np.testing.assert_array_equal(statistics(reference)["nearest"], kept["nearest"])
        assert score(rows, kept) == expected


@settings(max_examples=30)
@given(n=st.integers(6, 60), seed=st.integers(0, 2**32 - 1), power=st.integers(-10, 10))
def test_moving_turning_and_scaling_both_sets_changes_nothing(n: int, seed: int, power: int) -> None:
    """A factor that is a power of two and mirrored axes keep every bit, so not even ties may change."""
    rows, reference = on_a_grid(n, seed), on_a_grid(30, seed=5)
    rows[0], rows[1] = 0.0, 2.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=D)
    order = np.random.default_rng(seed).permutation(D)

    def changed(each: np.ndarray) -> np.ndarray:
        return ((each[:, order] * signs + 7.0) * 2.0**power).astype(np.float32)

    assert score(changed(rows), statistics(changed(reference))) == score(rows, statistics(reference))


@settings(max_examples=30)
@given(n=st.integers(6, 60), data=st.data())
def test_order_batching_and_merging_change_not_one_bit(n: int, data: st.DataObject) -> None:
    reference = statistics(features(40, seed=5))
    rows = features(n, seed=n)
    names = [f"step{index:04d}" for index in range(n)]
    expected = score(rows, reference, names)
    order = list(data.draw(st.permutations(range(n))))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))))
    shuffled, shuffled_names = rows[order], [names[index] for index in order]
    assert score(shuffled, reference, shuffled_names, cuts) == expected
    left, right = Small(reference), Small(reference)
    middle = data.draw(st.integers(0, n))
    left.update(batch(shuffled[:middle], shuffled_names[:middle]))
    right.update(batch(shuffled[middle:], shuffled_names[middle:]))
    left.merge(right)
    assert {value.key: value for value in left.compute()} == expected


def test_scoring_leaves_the_features_as_they_are() -> None:
    """Other metrics read the same memory."""
    rows, reference = features(60, seed=1), features(50, seed=2)
    before = rows.copy(), reference.copy()
    score(rows, statistics(reference))
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(reference, before[1])


def test_precision_and_density_have_the_error_of_a_mean() -> None:
    rows, reference = features(80, seed=1, shift=0.8), features(60, seed=2)
    values = score(rows, statistics(reference))
    share = values["precision_small"].value
    assert 0.0 < share < 1.0
    assert values["precision_small"].stderr == pytest.approx(np.sqrt(share * (1.0 - share) / 79), rel=1e-12)
    balls = squared(rows, reference) < np.sort(squared(reference, reference), axis=1)[:, 5]
    assert values["density_small"].stderr == pytest.approx((balls.sum(axis=1) / 5).std(ddof=1) / np.sqrt(80), rel=1e-12)


def test_recall_has_no_standard_error() -> None:
    values = score(features(80, seed=1), statistics(features(60, seed=2)))
    assert values["recall_small"].stderr is None


@pytest.mark.parametrize("n", [12, 80])
def test_coverages_error_is_the_jackknife_of_scores_without_a_group(n: int) -> None:
    """With groups of equal size: of one image each where there are fewer than twenty."""
    reference = statistics(features(60, seed=2))
    rows = features(n, seed=1, shift=0.5)
    count = min(20, n)
    left_out = []
    for group in range(count):
        rest = np.delete(rows, np.arange(group, n, count), axis=0)
        left_out.append(score(rest, reference)["coverage_small"].value)
    expected = np.sqrt((count - 1) / count * ((left_out - np.mean(left_out)) ** 2).sum())
    assert score(rows, reference)["coverage_small"].stderr == pytest.approx(expected, rel=1e-9)


def test_too_few_images_are_a_named_state_for_all_keys() -> None:
    reference = statistics(features(20, seed=2))
    for n, detail in ((0, "got 0"), (1, "a nearest neighbour needs 2 images, got 1")):
        values = score(features(n, seed=1), reference)
        assert list(values) == list(KEYS)
        assert {value.state for value in values.values()} == {ScoreState.TOO_FEW_IMAGES}
        assert detail in values["recall_small"].detail


def test_each_score_asks_for_as_many_images_as_its_own_balls_need() -> None:
    """Three neighbours for precision and recall, five for density and coverage; recall's balls are the samples'."""
    few, many = features(4, seed=1), features(20, seed=2)
    values = score(few, statistics(many))
    assert {value.state for value in values.values()} == {ScoreState.OK}
    values = score(many, statistics(few))
    assert [value.state for value in values.values()] == [
        ScoreState.OK,
        ScoreState.OK,
        ScoreState.TOO_FEW_IMAGES,
        ScoreState.TOO_FEW_IMAGES,
    ]
    assert values["density_small"].detail == "5 nearest neighbours need 6 images, the reference are 4"
    values = score(features(3, seed=1), statistics(many))
    assert [key for key, value in values.items() if value.state is not ScoreState.OK] == ["recall_small"]


@pytest.mark.parametrize(
    ("n", "m", "key", "what"),
    [(9, 30, "recall_small", "the samples are 9"), (30, 9, "precision_small", "the reference are 9")],
)
def test_a_larger_k_takes_more_images_on_both_sides(n: int, m: int, key: str, what: str) -> None:
    values = score(features(n, seed=1), statistics(features(m, seed=2)), options=NeighbourOptions(neighbours=9))
    (lacking,) = (value for value in values.values() if value.state is not ScoreState.OK)
    assert (lacking.key, lacking.state) == (key, ScoreState.TOO_FEW_IMAGES)
    assert lacking.detail == f"9 nearest neighbours need 10 images, {what}"


def test_other_states_have_names() -> None:
    reference = statistics(features(20, seed=2))
    collapsed = score(np.tile(features(1, seed=1), (9, 1)), reference)
    assert {value.state for value in collapsed.values()} == {ScoreState.COLLAPSED}
    broken = features(9, seed=1)
    broken[4, 3] = np.nan
    values = score(broken, reference)
    assert {value.state for value in values.values()} == {ScoreState.NON_FINITE}
    assert "00004" in values["coverage_small"].detail


@pytest.mark.parametrize(("m", "kept"), [(6, 5), (50, 20)])
def test_statistics_are_the_features_and_their_nearest_distances(m: int, kept: int) -> None:
    rows = features(m, seed=1)
    arrays = statistics(rows)
    assert sorted(arrays) == ["features", "nearest"]
    np.testing.assert_array_equal(arrays["features"], rows)
    distances = np.sort(squared(rows, rows), axis=1)[:, 1 : kept + 1]
    np.testing.assert_allclose(arrays["nearest"], distances, rtol=1e-13)


def test_a_reference_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 readable images, got 1"):
        statistics(features(1, seed=1))


def test_a_users_features_are_accepted() -> None:
    reference, rows = features(33, seed=1), features(20, seed=2)
    completed = Small.complete_statistics({"features": reference.astype(np.float64), "nearest": np.zeros(3)})
    assert score(rows, completed) == score(rows, statistics(reference))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"mu": np.zeros(D), "sigma": np.eye(D)},
            r"precision_small: statistics hold no array 'features'; found: mu, s",
        ),
        ({"features": np.zeros((9, 2048))}, r"'features' has shape \(9, 2048\), but small features need \(N, 6\)"),
        ({"features": np.zeros((1, D))}, "at least 2"),
        ({"features": np.full((9, D), np.nan)}, "finite"),
    ],
)
def test_unusable_statistics_are_refused_by_name(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Small.complete_statistics(arrays)


def test_the_specs_are_those_of_inception_and_of_any_extractor() -> None:
    assert Prdc.spec.keys == ("precision", "recall", "density", "coverage")
    assert (Prdc.extractor, Prdc.dimensions) == ("inception-v3", 2048)
    assert Small.spec.keys == KEYS
    assert all(Prdc.spec.rises(key) for key in Prdc.spec.keys)
    assert on_extractor(ExtractorInfo(name="small", key="small", dimensions=D)) is Small


def test_where_all_samples_agree_no_error_is_claimed() -> None:
    """A set and itself: every sample lies in a ball, every ball holds one, whichever group is left out of others."""
    rows = features(30, seed=1)
    values = score(rows, statistics(rows))
    assert values["precision_small"].value == 1.0
    assert values["precision_small"].stderr is None
    assert values["density_small"].stderr > 0
