"""Stand-in weights: the real architectures under the real file names, with seeded random numbers of a sane size.

Activations neither vanish nor explode, and two pictures never look the same. The libraries that own the architectures
load these files themselves, strictly.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from metricwatch.worker.networks.inception import architecture

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
VGG16_FILE = "vgg16-397923af.pth"
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ART_INCEPTION_FILE = "art_inception.pth"
# As the published folder has it, in the notation of its day.
_CLIP_PROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "resample": 3,
    "size": 224,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_WORDS = ("photo", "of", "painting", "cat", "a", "the", "oil", "style")


def write_inception_weights(path: Path, *, seed: int = 0) -> Path:
    """The FID Inception, as pytorch-fid and torch-fidelity load it."""
    return _save(_randomised(architecture(), seed), path)


def write_vgg16_weights(path: Path, *, seed: int = 0) -> Path:
    """torchvision's whole VGG16: 528 MB, two seconds. Write it once a session."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        network = vgg16(weights=None, init_weights=False)
    return _save(_randomised(network.to_empty(device="cpu"), seed), path)


def write_alexnet_weights(path: Path, *, seed: int = 0) -> Path:
    """torchvision's whole AlexNet: 233 MB."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        network = alexnet(weights=None)
    return _save(_randomised(network.to_empty(device="cpu"), seed), path)


def write_art_inception_weights(path: Path, *, seed: int = 0) -> Path:
    """ArtFID's Inception with its two heads, as the package art-fid names them."""
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
    tensors = {}
    for name, tensor in _randomised(network, seed).items():
        part, dot, rest = name.partition(".")
        heads = {"fc": ("fc1", "fc2"), "AuxLogits": ("AuxLogits1", "AuxLogits2")}.get(part, (part,))
        tensors.update({f"{head}{dot}{rest}": tensor for head in heads})
    return _save(tensors, path)


def write_clip_folder(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP of two layers and 64 channels with a byte-pair tokenizer of a few words; embeddings have 512 numbers."""
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": vocabulary, "max_position_embeddings": 77},
        vision_config={**small, "image_size": 224, "patch_size": 32},
        projection_dim=512,
    )
    network = CLIPModel(config)
    network.load_state_dict(_randomised(network, seed))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_CLIP_PROCESSOR))
    return folder


def write_dinov2_folder(folder: Path, *, seed: int = 0) -> Path:
    """A DINOv2 of the small model's width (384) and places, with two layers."""
    from transformers import Dinov2Config, Dinov2Model

    network = Dinov2Model(
        Dinov2Config(hidden_size=384, num_hidden_layers=2, num_attention_heads=6, image_size=518, patch_size=14)
    )
    network.load_state_dict(_randomised(network, seed))
    network.save_pretrained(folder)
    return folder


def _randomised(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Kaiming's scale for what a ReLU follows, a little of everything in biases and normalisations."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            tensors[name] = torch.zeros_like(tensor)
        elif tensor.dim() > 1:
            fan_in = tensor[0].numel() if "embedding" not in name else 4
            tensors[name] = torch.empty_like(tensor).normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif name.endswith(("bias", "running_mean", "class_embedding")):
            tensors[name] = torch.empty_like(tensor).normal_(0, 0.05, generator=generator)
        else:
            tensors[name] = torch.empty_like(tensor).uniform_(0.8, 1.2, generator=generator)
    return tensors


def _write_tokenizer(folder: Path) -> int:
    """vocab.json, merges.txt and tokenizer_config.json as CLIP has them; gives the number of tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges[parts[0], parts[1]] = None
            parts[:2] = [parts[0] + parts[1]]
    tokens += [left + right for left, right in merges]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**special, "pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return path
