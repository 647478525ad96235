"""Reads torch's distributed checkpoints (DCP): `.metadata`, and the tensors in pieces in `*.distcp` files.

torch's own reader unpickles `.metadata` and the values in it with all that pickles can do. Here nothing that a
checkpoint names is called: the metadata become inert records, and each piece is read by torch.load(weights_only=True).
The layout is that of torch/distributed/checkpoint/metadata.py and filesystem.py, version 1.0.0 and before.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from metricwatch.api.checkpoint import formats
from metricwatch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_MODULES = ("torch.distributed.", "torch.serialization", "pathlib")
# What a description that is damaged, or made to be, runs into.
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError, pickle.UnpicklingError)


def read(path: str, name: str) -> Mapping[str, Any]:
    """The tree that was saved. Values other than tensors are left out where reading them could run code.

    Raises InputError naming the file that is missing, damaged or not what it claims to be.
    """
    metadata = _metadata(os.path.join(path, ".metadata"), f"{name}/.metadata")
    tree: dict[str, Any] = {}
    with _Pieces(path, name) as pieces:
        try:
            described = dict(metadata.state_dict_metadata)
            places = dict(getattr(metadata, "planner_data", None) or {})
            stored: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
            for key, info in metadata.storage_data.items():
                offset = tuple(getattr(key, "offset", None) or ())
                stored.setdefault(key.fqn, []).append((offset, info))
            for key, what in described.items():
                value = pieces.tensor(key, what, stored[key]) if hasattr(what, "size") else pieces.plain(stored[key])
                _put(tree, tuple(places.get(key, (key,))), value)
        except _UNREADABLE as error:
            if formats.is_no_room(error):
                raise
            raise InputError(f"{name}/.metadata is not that of a checkpoint we can read: {error!r}"[:400]) from error
    return tree


class _Record:
    """Stands for any object of a checkpoint's metadata: it keeps what it is given and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):
            # TensorProperties: the type comes first.
            state = {"dtype": state[0]} if state else {}
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Makes tuples, types of tensors and records of what a pickle names, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "torch":
            if name == "Size":
                return tuple
            if isinstance(kind := vars(torch).get(name), torch.dtype):
                return kind
        elif (module, name) == ("collections", "OrderedDict"):
            return dict
        elif module.startswith(_MODULES):
            return _Record
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a checkpoint's metadata")


def _metadata(path: str, name: str) -> Any:
    try:
        with open(path, "rb") as stream:
            found = _Unpickler(stream).load()
    except OSError as error:
        raise formats.trouble(error, name) from error
    # Whatever a damaged pickle makes the reader trip over.
    except Exception as error:
        raise InputError(f"{name} is cut short or damaged: {error or type(error).__name__}"[:400]) from error
    if not (isinstance(found, _Record) and isinstance(getattr(found, "state_dict_metadata", None), dict)):
        raise InputError(f"{name} does not describe a distributed checkpoint")
    return found


class _Pieces:
    """The *.distcp files of one checkpoint, each opened once."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._open: dict[str, BinaryIO] = {}
        # No tensor is larger than all files: a damaged size must not take all memory.
        self._bytes = sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._open.values():
            stream.close()

    def tensor(self, key: str, what: Any, stored: list[tuple[tuple[int, ...], Any]]) -> Tensor:
        import torch

        size = tuple(int(length) for length in what.size)
        kind = what.properties.dtype
        count = 1
        for length in size:
            count *= length
        if count < 0 or count * kind.itemsize > self._bytes:
            raise ValueError(f"{key} is said to be {size}, more than the files hold")
        whole = torch.empty(size, dtype=kind)
        filled = 0
        for offset, info in stored:
            piece = self._load(info)
            if not isinstance(piece, torch.Tensor):
                raise TypeError(f"{key} is said to be a tensor and is not")
            start = offset or (0,) * len(size)
            inside = tuple(slice(at, at + length) for at, length in zip(start, piece.shape, strict=True))
            whole[inside].copy_(piece)
            filled += piece.numel()
        if filled < count:
            raise ValueError(f"{key} is not whole: {filled} of {count} numbers are there")
        return whole

    def plain(self, stored: list[tuple[tuple[int, ...], Any]]) -> Any:
        """A number, a text or the like; None for an object whose reading could run code."""
        try:
            return self._load(stored[0][1])
        except pickle.UnpicklingError:
            return None

    def _load(self, info: Any) -> Any:
        import torch

        if getattr(info, "transform_descriptors", None):
            raise ValueError("its pieces are compressed, which we do not read")
        file = str(info.relative_path)
        if os.path.basename(file) != file:
            raise ValueError(f"it names the file {file!r}, which does not lie beside it")
        where = f"{self._name}/{file}"
        try:
            if file not in self._open:
                self._open[file] = open(os.path.join(self._path, file), "rb")  # noqa: SIM115 - __exit__ closes it
            stream = self._open[file]
            stream.seek(info.offset)
            content = stream.read(info.length)
        except FileNotFoundError as error:
            raise InputError(f"{self._name} has no {file}, which .metadata names: a shard is missing") from error
        except OSError as error:
            raise formats.trouble(error, where) from error
        if len(content) < info.length:
            raise InputError(f"{where} is cut short: it ends before byte {info.offset + info.length}")
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise
        except Exception as error:
            if formats.is_no_room(error):
                raise
            raise InputError(f"{where} is damaged: {str(error)[:200]}") from error


def _put(tree: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    """Numbers in a place are the indices of lists; they become keys, which is all that finding weights asks for."""
    for key in place[:-1]:
        tree = tree.setdefault(key, {})
    tree[place[-1]] = value
