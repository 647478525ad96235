"""Reads checkpoints: a file, or a directory of them, into one tree."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from metricwatch.api.checkpoint import distributed, formats
from metricwatch.errors import InputError

# The files of a Hugging Face model, the preferred first.
_USUAL = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_INDEX = ".index.json"
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".th", ".pth.tar", ".pt.tar")
# What trainers put beside the weights.
_BESIDE = re.compile(r"optim|sched|scaler|random|rng|training_args|trainer_state|^meta\.pt$", re.IGNORECASE)
_SAMPLERS = {"torchscript": "a TorchScript program", "torch_export": "a program of torch.export"}
_UNSAFE = "Weights only load failed"
_REFUSED = re.compile(r"GLOBAL (\S+)|[Tt]rying to (?:load|instantiate) unsupported GLOBAL (\S+)|class (\S+) was not")
_LISTED = 5


def read(path: str, name: str) -> Mapping[str, Any]:
    """The tree of a file or a directory. Raises InputError naming what cannot be read and why."""
    if os.path.isdir(path):
        return _directory(path, name)
    return _file(path, name)


def _file(path: str, name: str) -> Mapping[str, Any]:
    kind = formats.told(path, name)
    if kind == "safetensors":
        return _safetensors(path, name)
    if kind in _SAMPLERS:
        raise InputError(
            f"{name} is {_SAMPLERS[kind]}, not weights; write sampler: {{use: {kind}}}, "
            "or save the model's state_dict() instead"
        )
    return _torch(path, name, mapped=kind == "torch")


def _safetensors(path: str, name: str) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except OSError as error:
        raise formats.trouble(error, name) from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        if formats.is_no_room(error):
            raise
        raise InputError(f"{name} is cut short or damaged: {_line(error)}") from error


def _torch(path: str, name: str, *, mapped: bool) -> Mapping[str, Any]:
    import pickle

    import torch

    try:
        # Mapped: an optimizer's state, often twice the model, is then never read.
        with torch.serialization.safe_globals(_harmless()):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise formats.trouble(error, name) from error
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None and _UNSAFE in str(error):
            # What torch says goes on to advise what runs such code.
            raise InputError(
                f"{name} is damaged, or holds objects that could run their code when they are loaded; "
                'save tensors and plain values alone: torch.save({"model": model.state_dict()}, path), or safetensors'
            ) from error
        if refused is None:
            raise InputError(f"{name} is damaged, or not a file of torch.save: {_line(error)}") from error
        raise InputError(
            f"{name} holds an object of {next(filter(None, refused.groups()))}, and to load one could run its code; "
            'save tensors and plain values alone: torch.save({"model": model.state_dict()}, path), or safetensors'
        ) from error
    # A damaged file can make the reader fail in any way.
    except Exception as error:
        if formats.is_no_room(error):
            raise
        raise InputError(f"{name} is cut short or damaged: {_line(error)}") from error
    if not isinstance(tree, Mapping):
        raise InputError(
            f"{name} holds one {type(tree).__name__}, not weights by name; "
            'save a dictionary: torch.save({"model": model.state_dict()}, path)'
        )
    return tree


class _LeftOut:
    """Stands for a NumPy value in a tree. The real types take states that can point anywhere in memory."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _harmless() -> list[Any]:
    """What training scripts like to save beside their weights: values that do nothing when they are made."""
    arrays = [f"numpy.{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")]
    numpy = ("numpy.ndarray", "numpy.dtype", *arrays)
    return [argparse.Namespace, pathlib.PosixPath, *((_LeftOut, each) for each in numpy)]


def _directory(path: str, name: str) -> Mapping[str, Any]:
    try:
        entries = sorted(os.listdir(path))
        if ".metadata" in entries:
            return distributed.read(path, name)
        # The full name of a variant ("model.fp16.safetensors") is no usual one: it is used where it stands alone.
        indices = [f"{each}{_INDEX}" for each in _USUAL if f"{each}{_INDEX}" in entries]
        usual = [each for each in _USUAL if each in entries]
        if indices and not usual:
            return _shards(path, name, indices[0])
        files = [each for each in entries if each.endswith(_WEIGHTS) and not _BESIDE.search(each)]
        chosen = usual or files
        if len(chosen) == 1 or usual:
            return _file(os.path.join(path, chosen[0]), f"{name}/{chosen[0]}")
        if not files:
            return _subdirectories(path, name, entries)
    except OSError as error:
        raise formats.trouble(error, name) from error
    raise InputError(
        f"{name} holds {len(files)} files of weights ({_listed(files)}), and it is not clear which belong to the "
        "model; watch the file itself instead of the directory"
    )


def _shards(path: str, name: str, index: str) -> Mapping[str, Any]:
    """A Hugging Face model in several files, as its index says."""
    where = f"{name}/{index}"
    try:
        with open(os.path.join(path, index), encoding="utf-8") as stream:
            names = json.load(stream)["weight_map"]
        shards = {str(file) for file in names.values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is damaged: it is not a JSON object with a weight_map ({_line(error)})") from error
    for shard in sorted(shards):
        if os.path.basename(shard) != shard or shard in {"", ".", ".."}:
            raise InputError(f"{where} names the file {shard!r}, which does not lie beside it")
        if not os.path.exists(os.path.join(path, shard)):
            raise InputError(f"{name} has no {shard}, which {index} names: a shard is missing")
    tree: dict[str, Any] = {}
    for shard in sorted(shards):
        tree |= _file(os.path.join(path, shard), f"{name}/{shard}")
    lost = sorted(set(names) - set(tree))
    if lost:
        raise InputError(f"{where} names weights that no shard holds: {_listed(lost)}")
    return tree


def _subdirectories(path: str, name: str, entries: list[str]) -> Mapping[str, Any]:
    """A key for each subdirectory that holds weights, as in a diffusers pipeline."""
    parts = [each for each in entries if _holds_weights(os.path.join(path, each))]
    if not parts:
        held = f"it holds {_listed(entries)}" if entries else "it is empty"
        raise InputError(f"{name} has no weights that we read: {held}; known are files named *{', *'.join(_WEIGHTS)}")
    return {part: _directory(os.path.join(path, part), f"{name}/{part}") for part in parts}


def _holds_weights(path: str) -> bool:
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    names = os.listdir(path)
    return ".metadata" in names or any(each.endswith(_WEIGHTS) and not _BESIDE.search(each) for each in names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _line(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
