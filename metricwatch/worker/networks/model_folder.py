"""Models of the transformers library from a folder: local files only, no code from the folder, nothing left random."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from metricwatch.errors import InputError, MetricwatchError, MissingWeightsError
from metricwatch.worker.networks.tensors import listed


@contextlib.contextmanager
def reading(folder: str, extractor: str) -> Iterator[None]:
    """Turns whatever the libraries raise about a folder's content into InputError, or MissingWeightsError."""
    try:
        yield
    except MetricwatchError:
        raise
    except ImportError as error:
        raise MissingWeightsError(f"{extractor}: a library is missing: {error}; pip install transformers") from error
    except Exception as error:  # whatever a broken JSON, tokenizer or tensor file makes the libraries raise
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{extractor}: {folder} is damaged or not a folder of this model "
            f"({type(error).__name__}: {first}); remove it and fetch it again"
        ) from error


def load_model(model: type[Any], folder: str, extractor: str) -> Any:
    """A model class of transformers with a folder's weights, float32.

    safetensors where the folder has them, else a file of tensors that is read without executing what is inside.
    Raises InputError when tensors are missing or of another shape: the library would fill them with random numbers.
    """
    from transformers.utils import logging

    # A bar for what takes a moment, drawn into a log.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with reading(folder, extractor):
        network, told = model.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=os.path.isfile(os.path.join(folder, "model.safetensors")),
            weights_only=True,
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    # Entries are names, or tuples that begin with one, by the version of the library.
    names = {
        kind: sorted(item if isinstance(item, str) else str(item[0]) for item in told.get(f"{kind}_keys", ()))
        for kind in ("missing", "mismatched")
    }
    problems = [f"{kind}: {listed(found)}" for kind, found in names.items() if found]
    if problems:
        raise InputError(f"{extractor}: {folder} does not fit the network; {'; '.join(problems)}")
    return network
