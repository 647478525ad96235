"""The folders that diffusers writes: which classes they name and where the weights are. Nothing is loaded here.

Both are untrusted. A class is taken from diffusers and transformers alone, and weights from safetensors files alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metricwatch.api import Ema, InputError

INDEX = "model_index.json"
CONFIG = "config.json"
LIBRARIES = ("diffusers", "transformers")
LORA = "pytorch_lora_weights.safetensors"
# Files of configuration are read whole; that of a tokenizer may have 20 MB, and is not read here.
_LONGEST_CONFIG = 4_000_000
# Of each file of weights, so much at each of so many places goes into a fingerprint.
_PIECE = 65_536
_PIECES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineIndex:
    """A model_index.json. components: by name their library ("diffusers", "transformers" or the name of a module in
    diffusers.pipelines) and class, without those that the pipeline was saved without.
    """

    folder: Path
    pipeline: str
    components: Mapping[str, tuple[str, str]]


def read_index(folder: Path, whose: str) -> PipelineIndex:
    """Read a pipeline's index. `whose` begins every message.

    Raises InputError where it is missing or damaged, or names code that diffusers and transformers do not bring.
    """
    if not folder.is_dir():
        raise InputError(f"{whose}: is no folder; name the folder that the pipeline's save_pretrained() wrote")
    document = read_json(folder / INDEX, whose)
    pipeline = document.get("_class_name")
    if not _is_name(pipeline):
        raise InputError(f"{whose}: {INDEX} names the pipeline {pipeline!r}; only pipelines of diffusers are run")
    components = {
        name: _component(name, value, whose)
        for name, value in document.items()
        if not name.startswith("_") and isinstance(value, list) and value != [None, None]
    }
    return PipelineIndex(folder=folder, pipeline=str(pipeline), components=components)


def _component(name: str, value: list[Any], whose: str) -> tuple[str, str]:
    if not (_is_name(name) and len(value) == 2 and _is_name(value[1])):  # noqa: PLR2004 - library and class
        raise InputError(f"{whose}: {INDEX} has {value!r} as its {name!r}, which is no library and class; save it anew")
    library, class_name = value
    if library in LIBRARIES or _is_pipeline_module(library):
        return str(library), str(class_name)
    raise InputError(
        f"{whose}: its {name} is {class_name} of {library!r}; only classes of diffusers and transformers are loaded,"
        " because a checkpoint's own code is not trusted"
    )


def _is_pipeline_module(library: Any) -> bool:
    """True for the name of a package in diffusers.pipelines, by which an index may name what a pipeline brings."""
    import diffusers

    return _is_name(library) and (Path(diffusers.__file__).parent / "pipelines" / library / "__init__.py").is_file()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier() and not value.startswith("_")


def part_folder(folder: Path, part: str, ema: Ema, whose: str) -> Path:
    """Where the trained part of a checkpoint is: in <part>_ema (see `ema`), in <part>, or the folder itself.

    Raises InputError that says what there is instead.
    """
    if not folder.is_dir():
        raise InputError(f"{whose}: is no folder; name the folder that holds {part} or the part's {CONFIG}")
    averaged = folder / f"{part}_ema"
    if ema != "never" and (averaged / CONFIG).is_file():
        return averaged
    if ema == "always":
        raise InputError(f"{whose}: has no {averaged.name} folder, and the option ema is 'always'")
    for place in (folder / part, folder):
        if (place / CONFIG).is_file():
            return place
    if (folder / LORA).is_file():
        raise InputError(f"{whose}: holds LoRA weights alone, which are not read; save the {part} with them merged in")
    raise InputError(f"{whose}: has neither {part}/{CONFIG} nor {CONFIG}; it holds {_contents(folder)}")


def refuse_code(folder: Path, whose: str) -> None:
    """Raises InputError where a component's folder would have a library run code, or load other weights than its own.

    Those are the ways of config.json that no argument of from_pretrained() closes.
    """
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{whose}: {folder.name} holds an adapter, which is not read; save it merged in")
    for name in (CONFIG, "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        for key, value in _entries(read_json(folder / name, whose)):
            if key == "auto_map":
                raise InputError(f"{whose}: {folder.name}/{name} names code of its own (auto_map), which is not run")
            # "organisation/repository" is code to be fetched from the hub.
            if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
                raise InputError(
                    f"{whose}: {folder.name}/{name} names a kernel of the hub, {value!r}, which is not run"
                )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON document, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def read_json(path: Path, whose: str) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError where there is none."""
    shown = path.name if path.name == INDEX else f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _LONGEST_CONFIG:
            raise InputError(f"{whose}: {shown} is too long for a configuration")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{whose}: has no {shown}; it holds {_contents(path.parent)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{whose}: {shown} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{whose}: {shown} holds no object; save it anew")
    return document


def _contents(folder: Path) -> str:
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    except OSError:
        return "nothing that can be listed"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""  # noqa: PLR2004 - enough to see what it is
    return (", ".join(names[:6]) + more) if names else "nothing"


def fingerprint(index: PipelineIndex, without: str) -> str:
    """Eight hexadecimal digits that change with what a pipeline's folder brings, but for one component.

    Configurations and vocabularies count whole. Of weights, which may have tens of gigabytes, count the size and 16
    pieces of 64 KiB spread over the file: enough to tell one training from another.
    """
    digest = hashlib.sha256((index.folder / INDEX).read_bytes())
    for name in sorted(set(index.components) - {without}):
        folder = index.folder / name
        for path in sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ():
            size = path.stat().st_size
            digest.update(f"\0{path.relative_to(index.folder)}\0{size}\0".encode())
            with path.open("rb") as stream:
                if size <= _PIECE * _PIECES:
                    digest.update(stream.read())
                    continue
                for piece in range(_PIECES):
                    stream.seek(piece * (size - _PIECE) // (_PIECES - 1))
                    digest.update(stream.read(_PIECE))
    return digest.hexdigest()[:8]
