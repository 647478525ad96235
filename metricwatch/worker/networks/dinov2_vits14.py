"""DINOv2 ViT-S/14 through transformers: self-supervised features, for fd_dinov2."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from metricwatch.errors import InputError
from metricwatch.worker.networks import preprocessing
from metricwatch.worker.networks.model_folder import load_model, reading
from metricwatch.worker.networks.network import Network

_NAME = "dinov2-vits14"
_DIMENSIONS = 384


class _ClassToken(nn.Module):
    """(N, 3, 224, 224) to (N, 384): the class token after the last layer norm."""

    def __init__(self, dino: Any) -> None:
        super().__init__()
        self.dino = dino

    def forward(self, pixels: Tensor) -> Tensor:
        token: Tensor = self.dino(pixel_values=pixels).pooler_output
        return token


def load(path: str) -> Network:
    """pooled: the class token (384). path is the model's folder."""
    with reading(path, _NAME):
        from transformers import Dinov2Model
    dino = load_model(Dinov2Model, path, _NAME)
    if dino.config.hidden_size != _DIMENSIONS:
        raise InputError(
            f"{_NAME}: {path} holds another DINOv2: its features have {dino.config.hidden_size} numbers, "
            f"not {_DIMENSIONS}"
        )
    pooled = _ClassToken(dino)
    return Network(
        pooled=pooled,
        preprocess={"imagenet-224-bicubic": preprocessing.imagenet_224_bicubic},
        modules=(pooled,),
    )
