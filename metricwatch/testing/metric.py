"""The contract that every metric keeps, as a test class for plugin authors.

class TestMyMetric(MetricContract):
    metric_class = MyMetric

    def images(self) -> Batch: ...          # at least four images, with all that the metric needs
    def reference_images(self) -> Batch: ...  # only for metrics that need a reference
"""

# ruff: noqa: S101 - assertions are what this module is for

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pytest

from metricwatch.api import Batch, Metric, MetricSpec, Need, PerImageMetric, ScoreState, Value

if TYPE_CHECKING:
    from torch import Tensor

    from metricwatch.api import Arrays

_KEY = re.compile(r"[a-z][a-z0-9_]*")


class MetricContract:
    """Subclass it, name it Test..., set metric_class, and pytest runs the contract.

    tolerance is the relative difference that another order or grouping of the same images may make.
    """

    metric_class: ClassVar[type[Metric]]
    tolerance: ClassVar[float] = 1e-9
    kept_statistics: ClassVar[Arrays]

    def images(self) -> Batch:
        """At least four images that together give a score with a value. The same at every call."""
        raise NotImplementedError

    def reference_images(self) -> Batch:
        """At least four images that can serve as a reference. Needed only where the metric needs one."""
        raise NotImplementedError

    # --- the contract ----------------------------------------------------------------------------------

    def test_the_spec_names_its_keys_and_needs(self) -> None:
        spec = self.metric_class.spec
        assert isinstance(spec, MetricSpec)
        assert spec.keys, "a metric gives at least one key"
        assert len(set(spec.keys)) == len(spec.keys), "keys are different from each other"
        assert all(_KEY.fullmatch(key) for key in spec.keys), "keys are lower-case words joined by underscores"
        assert set(spec.needs) <= set(get_args(Need))
        assert all(isinstance(spec.rises(key), bool) for key in spec.keys)

    def test_importing_its_module_does_not_import_torch(self) -> None:
        code = (
            f"import sys, {self.metric_class.__module__}\n"
            "heavy = sorted({'torch', 'torchvision', 'transformers', 'lpips', 'scipy'} & set(sys.modules))\n"
            "sys.exit(' '.join(heavy) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"importing the metric imports {done.stderr.strip()}"

    def test_it_gives_a_finite_score_for_good_images(self) -> None:
        values = self._score([self.images()])
        assert {value.key for value in values} <= set(self.metric_class.spec.keys)
        for value in values:
            assert value.state is ScoreState.OK, value.detail
            assert value.value is not None
            assert math.isfinite(value.value)
            assert value.stderr is None or (math.isfinite(value.stderr) and value.stderr >= 0)
            assert value.images > 0

    def test_without_images_it_names_the_state_and_gives_no_value(self) -> None:
        values = self._new().compute()
        assert values, "every key is accounted for, even without images"
        for value in values:
            assert value.state is not ScoreState.OK
            assert value.value is None
            assert value.detail, "the detail says what is wrong"

    def test_without_a_reference_it_says_so(self) -> None:
        if "reference" not in self.metric_class.spec.needs:
            pytest.skip("this metric needs no reference")
        metric = self.metric_class()
        metric.update(self.images())
        assert {value.state for value in metric.compute()} == {ScoreState.NO_REFERENCE}

    def test_batching_does_not_matter(self) -> None:
        batch = self.images()
        whole = self._score([batch])
        self._same(whole, self._score([batch.select([index]) for index in range(len(batch))]))
        self._same(whole, self._score([batch.select([0]), batch.select(range(1, len(batch)))]))

    def test_an_empty_batch_changes_nothing(self) -> None:
        batch = self.images()
        self._same(self._score([batch]), self._score([batch.select([]), batch, batch.select([])]))

    def test_order_does_not_matter(self) -> None:
        batch = self.images()
        backwards = batch.select(range(len(batch) - 1, -1, -1))
        self._same(self._score([batch]), self._score([backwards]))

    def test_computing_twice_gives_the_same(self) -> None:
        metric = self._fed([self.images()])
        self._same(metric.compute(), metric.compute())

    def test_merged_parts_equal_one_pass(self) -> None:
        batch = self.images()
        left, right = self._halves(batch)
        left.merge(right)
        self._same(self._score([batch]), left.compute())

    def test_merging_is_associative(self) -> None:
        batch = self.images()
        parts = [batch.select([0]), batch.select([1]), batch.select(range(2, len(batch)))]
        one, two, three = (self._fed([part]) for part in parts)
        one.merge(two)
        one.merge(three)
        first, second, third = (self._fed([part]) for part in parts)
        second.merge(third)
        first.merge(second)
        self._same(one.compute(), first.compute())

    def test_merging_leaves_the_other_untouched(self) -> None:
        left, right = self._halves(self.images())
        before = right.compute()
        left.merge(right)
        left.update(self.images())
        self._same(before, right.compute())

    def test_merging_into_an_empty_one_is_the_other(self) -> None:
        batch = self.images()
        empty = self._new()
        empty.merge(self._fed([batch]))
        self._same(self._score([batch]), empty.compute())

    def test_reference_statistics_survive_a_file(self) -> None:
        if "reference" not in self.metric_class.spec.needs:
            pytest.skip("this metric needs no reference")
        import numpy as np

        file = io.BytesIO()
        kept: dict[str, Any] = dict(self._statistics() or {})
        np.savez(file, **kept)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            restored = {name: archive[name] for name in archive.files}
        metric = self.metric_class(restored)
        metric.update(self.images())
        self._same(self._score([self.images()]), metric.compute())

    def test_a_metric_that_gives_maps_says_what_is_hottest(self) -> None:
        metric = self._new()
        if not isinstance(metric, PerImageMetric):
            pytest.skip("only metrics of single images have maps")
        batch = self._mappable(metric)
        if metric.hottest is None:
            assert not len(metric.maps(batch)), "whoever gives maps sets hottest"
        else:
            assert math.isfinite(metric.hottest)
            assert metric.hottest > 0
            assert len(metric.maps(batch)) == len(batch), "a map for each image"

    def test_maps_are_finite_and_no_larger_than_their_pictures(self) -> None:
        metric, batch = self._with_maps()
        for values, image in zip(metric.maps(batch), batch.images, strict=True):
            assert str(values.dtype) == "torch.float32"
            assert values.ndim == 2, "a map is (h, w)"  # noqa: PLR2004 - h, w
            assert 0 < values.shape[0] <= image.shape[-2]
            assert 0 < values.shape[1] <= image.shape[-1]
            assert bool(values.isfinite().all())
            assert float(values.min()) >= 0

    def test_a_map_is_that_of_its_image_whatever_came_with_it(self) -> None:
        metric, batch = self._with_maps()
        for row, values in enumerate(metric.maps(batch)):
            (alone,) = metric.maps(batch.select([row]))
            self._alike(alone, values)

    def test_maps_are_zero_where_image_and_content_are_the_same(self) -> None:
        metric, batch = self._with_maps()
        if not batch.content:
            pytest.skip("this metric needs no content")
        same = replace(
            batch, images=batch.content, layers=batch.content_layers, features=batch.content_features or batch.features
        )
        for values in metric.maps(same):
            assert float(values.max()) <= 1e-6 * (metric.hottest or 1.0)

    def test_maps_change_no_score(self) -> None:
        metric, batch = self._with_maps()
        metric.update(self.images())
        before = metric.compute()
        metric.maps(batch)
        assert metric.compute() == before

    # --- how it is done --------------------------------------------------------------------------------

    def _statistics(self) -> Arrays | None:
        if "reference" not in self.metric_class.spec.needs:
            return None
        # Some take seconds to compute, and every test needs them: once for the class.
        if "kept_statistics" not in type(self).__dict__:
            reference = self.metric_class()
            reference.update(self.reference_images())
            type(self).kept_statistics = reference.statistics()
        return type(self).kept_statistics

    def _new(self) -> Metric:
        return self.metric_class(self._statistics())

    def _fed(self, batches: Sequence[Batch]) -> Metric:
        metric = self._new()
        for batch in batches:
            metric.update(batch)
        return metric

    def _score(self, batches: Sequence[Batch]) -> Sequence[Value]:
        return self._fed(batches).compute()

    def _mappable(self, metric: PerImageMetric) -> Batch:
        batch = self.images()
        rows = [
            row
            for row, image in enumerate(batch.images)
            if not metric.obstacle(int(image.shape[-2]), int(image.shape[-1]))
        ]
        return batch.select(rows)

    def _with_maps(self) -> tuple[PerImageMetric, Batch]:
        metric = self._new()
        if not isinstance(metric, PerImageMetric) or metric.hottest is None:
            pytest.skip("this metric has no maps")
        return metric, self._mappable(metric)

    def _alike(self, one: Tensor, other: Tensor) -> None:
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.max()))

    def _halves(self, batch: Batch) -> tuple[Metric, Metric]:
        middle = len(batch) // 2
        return self._fed([batch.select(range(middle))]), self._fed([batch.select(range(middle, len(batch)))])

    def _same(self, expected: Sequence[Value], found: Sequence[Value]) -> None:
        by_key = {value.key: value for value in found}
        assert sorted(by_key) == sorted(value.key for value in expected)
        for value in expected:
            other = by_key[value.key]
            assert (value.state, value.images) == (other.state, other.images)
            if value.value is None:
                assert other.value is None
            else:
                assert other.value == pytest.approx(value.value, rel=self.tolerance, abs=1e-12)
            if value.stderr is None:
                assert other.stderr is None
            else:
                assert other.stderr == pytest.approx(value.stderr, rel=1e-6, abs=1e-12)
