"""torchvision's VGG16 and AlexNet: pooled features from their classifiers, maps from their convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metricwatch.worker.networks import preprocessing
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.tapped import Tapped


class _Penultimate(nn.Module):
    """(N, 3, 224, 224) to (N, 4096): the classifier's second hidden layer, after its ReLU."""

    def __init__(self, whole: nn.Module, hidden: int) -> None:
        super().__init__()
        self.features = whole.get_submodule("features")
        self.avgpool = whole.get_submodule("avgpool")
        classifier = whole.get_submodule("classifier")
        assert isinstance(classifier, nn.Sequential)  # noqa: S101 - tells the type checker what torchvision builds
        self.hidden = classifier[:hidden]

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.hidden(self.avgpool(self.features(pixels)).flatten(1))
        return features


def classic_network(whole: nn.Module, *, hidden: int, taps: Sequence[int]) -> Network:
    """The Network of a torchvision model made of features, avgpool and classifier.

    hidden is how many modules of the classifier lead to the second hidden layer after its ReLU, taps are the places
    of the ReLUs in features whose maps are given.
    """
    features = whole.get_submodule("features")
    assert isinstance(features, nn.Sequential)  # noqa: S101 - as above
    pooled, layers = _Penultimate(whole, hidden), Tapped(features, taps)
    return Network(
        pooled=pooled,
        preprocess={"imagenet-224": preprocessing.imagenet_224},
        layers=layers,
        normalise=preprocessing.imagenet_native,
        modules=(pooled, layers),
    )
