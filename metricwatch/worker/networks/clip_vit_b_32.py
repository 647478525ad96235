"""CLIP ViT-B/32 through transformers: pictures and texts in one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metricwatch.errors import InputError
from metricwatch.worker.networks.model_folder import load_model, reading
from metricwatch.worker.networks.network import Network

_NAME = "clip-vit-b-32"
_DIMENSIONS = 512


class _Pictures(nn.Module):
    """(N, 3, 224, 224) to (N, 512): the projected class token."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.vision = clip.vision_model
        self.projection = clip.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return embeddings


class _Texts(nn.Module):
    """Tokens (P, T) to (P, 512): the projected token of the text's end."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.text = clip.text_model
        self.projection = clip.text_projection

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        embeddings: Tensor = self.projection(self.text(input_ids=tokens, attention_mask=mask).pooler_output)
        return embeddings


def load(path: str) -> Network:
    """pooled: image embeddings (512), not normalised. path is the model's folder.

    Texts of more tokens than the model has places for (77) are cut there, as CLIP's own processor does.
    """
    with reading(path, _NAME):
        from transformers import AutoTokenizer, CLIPModel

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        preprocess = _preprocessing(path)
    clip = load_model(CLIPModel, path, _NAME)
    if clip.config.projection_dim != _DIMENSIONS:
        raise InputError(
            f"{_NAME}: {path} holds another CLIP: its embeddings have {clip.config.projection_dim} numbers, "
            f"not {_DIMENSIONS}"
        )
    pictures, texts = _Pictures(clip), _Texts(clip)
    longest = int(clip.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def embed_text(prompts: Sequence[str]) -> Tensor:
        if not prompts:
            return torch.empty(0, _DIMENSIONS)
        device = next(texts.parameters()).device
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        embeddings: Tensor = texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
        return embeddings.float().cpu()

    return Network(
        pooled=pictures,
        preprocess={"clip-224": preprocess},
        embed_text=embed_text,
        modules=(pictures, texts),
    )


def _preprocessing(folder: str) -> Callable[[Tensor], Tensor]:
    """uint8 (N, 3, H, W) to float32 (N, 3, 224, 224) through the folder's own image processor, on the device.

    The shorter side becomes 224 (bicubic, antialiased), the centre is cut out; what lies outside is not seen. The
    processor gets uint8: floats in 0..1 it would divide by 255 once more.
    """
    import transformers

    kind: Any = transformers.CLIPImageProcessor
    if transformers.__version__.startswith("4."):
        # There, the one that works on tensors is another class; before 4.49, tensors go by way of the CPU.
        kind = getattr(transformers, "CLIPImageProcessorFast", kind)
    processor = kind.from_pretrained(folder, local_files_only=True)

    def preprocess(pixels: Tensor) -> Tensor:
        prepared = processor(images=list(pixels), input_data_format="channels_first", return_tensors="pt")
        values: Tensor = prepared["pixel_values"]
        return values.to(device=pixels.device, dtype=torch.float32)

    return preprocess
