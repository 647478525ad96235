"""Loads the components of a diffusers pipeline one by one, each by a class that was checked, and puts them together."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metricwatch.api import InputError, MetricwatchError, listed

from metricwatch_diffusers.folders import CONFIG, LIBRARIES, PipelineIndex, read_json, refuse_code

# They are there for what we ask nobody: whether a picture is decent.
_CHECKERS = ("safety_checker", "feature_extractor")


def pipeline_class(index: PipelineIndex, whose: str) -> type[Any]:
    """The pipeline's class. Raises InputError when diffusers has no pipeline of that name."""
    import diffusers

    cls = getattr(diffusers, index.pipeline, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise InputError(f"{whose}: diffusers {diffusers.__version__} has no pipeline named {index.pipeline}")
    return cls


def load_pipeline(index: PipelineIndex, ready: Mapping[str, Any], dtype: str, whose: str) -> Any:
    """The pipeline on the CPU, without a safety checker; `ready` holds components that need not be loaded.

    dtype is "float32", "float16" or "bfloat16".
    Raises InputError where a component is damaged, lacks weights, or is of a kind that we do not load.
    """
    cls = pipeline_class(index, whose)
    optional = set(getattr(cls, "_optional_components", ()))
    components: dict[str, Any] = {name: None for name in _CHECKERS if name in index.components and name in optional}
    components |= ready
    for name, (library, class_name) in index.components.items():
        if name not in components:
            components[name] = load_component(index.folder / name, library, class_name, dtype, whose)
    if "requires_safety_checker" in inspect.signature(cls.__init__).parameters:
        components["requires_safety_checker"] = False
    with explained(whose, f"cannot be put together as a {index.pipeline}"):
        quieten()
        pipeline = cls.from_pretrained(str(index.folder), local_files_only=True, use_safetensors=True, **components)
        # Bars belong to a terminal; the worker's standard error is a log.
        pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_component(folder: Path, library: str, class_name: str, dtype: str, whose: str) -> Any:
    """One component by its class. Raises InputError as load_pipeline() does."""
    import diffusers
    import transformers

    label = f"{whose}: {folder.name}"
    module = importlib.import_module(library if library in LIBRARIES else f"diffusers.pipelines.{library}")
    with explained(label, f"{class_name} cannot be loaded"):
        cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        raise InputError(f"{label}: {module.__name__} has no class {class_name}")
    if not folder.is_dir():
        raise InputError(f"{label}: the folder is missing; the pipeline was not saved whole")
    refuse_code(folder, whose)
    quieten()
    if issubclass(cls, (diffusers.ModelMixin, transformers.PreTrainedModel)):
        return _load_model(cls, folder, dtype, label)
    loadable = (
        diffusers.SchedulerMixin,
        transformers.PreTrainedTokenizerBase,
        transformers.ProcessorMixin,
        transformers.FeatureExtractionMixin,
        transformers.ImageProcessingMixin,
    )
    if not issubclass(cls, loadable):
        raise InputError(f"{label}: a {class_name} is neither model, scheduler, tokenizer nor processor")
    with explained(label, f"{class_name} cannot be loaded"):
        return cls.from_pretrained(str(folder), local_files_only=True)


def load_part(folder: Path, dtype: str, whose: str) -> Any:
    """A model of diffusers by itself. Raises InputError as load_pipeline() does."""
    class_name = str(read_json(folder / CONFIG, whose).get("_class_name"))
    if not class_name.isidentifier():
        raise InputError(f"{whose}: {folder.name}/{CONFIG} names no class; save it with save_pretrained()")
    return load_component(folder, "diffusers", class_name, dtype, whose)


def _load_model(cls: type[Any], folder: Path, dtype: str, label: str) -> Any:
    import diffusers
    import torch

    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{label}: has no .safetensors file; pickled weights are not read, save with safetensors")
    with explained(label, f"{cls.__name__} cannot be loaded"):
        model, info = cls.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # Both libraries fill up what is missing with chance, and go on.
    troubles = {"lack": info["missing_keys"], "have in another shape": info["mismatched_keys"]}
    if isinstance(model, diffusers.ModelMixin):
        # An encoder of transformers may be half of what its file holds, with a right to it.
        troubles["have beside its own"] = info["unexpected_keys"]
    for words, keys in troubles.items():
        if keys:
            names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
            raise InputError(f"{label}: the weights {words}, of {cls.__name__}: {listed(names)}")
    return model


def quieten() -> None:
    """No progress bars on standard error while something loads."""
    import diffusers
    import transformers

    libraries: tuple[Any, ...] = (diffusers, transformers)
    for library in libraries:
        library.utils.logging.disable_progress_bar()


@contextmanager
def explained(whose: str, trouble: str) -> Iterator[None]:
    """Whatever the libraries raise for a bad folder becomes an InputError. A lack of memory stays what it is."""
    import torch

    try:
        yield
    except (MetricwatchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a library may raise anything at bad input
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{whose}: {trouble}: {reason[:300]}") from error
