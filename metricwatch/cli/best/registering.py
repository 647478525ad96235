"""What a model version of a checkpoint is made of."""

from __future__ import annotations

import os
from hashlib import blake2b

from metricwatch.api import Registration
from metricwatch.cli.best.checkpoints import Checkpoints, Kept
from metricwatch.cli.best.curve import BestOf
from metricwatch.cli.progress import Show
from metricwatch.errors import InputError

_BLOCK = 1 << 22


def registration(
    found: BestOf,
    kept: Kept | None,
    checkpoints: Checkpoints,
    *,
    name: str,
    link: str | None,
    alias: str | None,
    show: Show,
) -> Registration:
    """What is to be registered: the checkpoint's files, or where it is. Reads the files to tell their digest.

    Raises InputError where the checkpoint is not known, gone, or cannot be read.
    """
    best, error = found.best, found.best.stderr
    value = f"{best.value:.6g}" + ("" if error is None else f" ± {error:.2g}")
    files = {} if link else _files(found, kept, checkpoints)
    return Registration(
        name=name,
        step=best.step,
        files=files,
        link=link or "",
        digest=_digest(files, show) if files else "",
        alias=alias or "",
        description=f"Step {best.step:,} of run {found.run_name}: {found.key} {value}, best of {found.steps}.",
        tags={"metricwatch.metric": found.key, "metricwatch.value": value},
    )


def _files(found: BestOf, kept: Kept | None, checkpoints: Checkpoints) -> dict[str, str]:
    step = found.best.step
    if kept is None:
        raise InputError(
            f"where the checkpoint of step {step} is, is not known: the ledger has scored none of run {found.run_name};"
            " if it is where others can open it, name that: --link URI"
        )
    if not kept.there:
        left = checkpoints.available()
        nearest = min(left, key=lambda each: (abs(each - step), each), default=None)
        instead = (
            "no other checkpoint of the run is there either"
            if nearest is None
            else f"the nearest step that still has one is {nearest}; --available takes the best of those that do"
        )
        raise InputError(f"{kept.path}: the checkpoint of step {step} is gone, or not whole any more; {instead}")
    return kept.files


def _digest(files: dict[str, str], show: Show) -> str:
    """Of names and contents. Raises InputError for a file that cannot be read."""
    digest = blake2b(digest_size=16)
    try:
        total, done = sum(os.path.getsize(path) for path in files.values()), 0
        for name, path in files.items():
            digest.update(f"{name}\0{os.path.getsize(path)}\0".encode(errors="surrogateescape"))
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    done += len(block)
                    show("bytes read", done, total)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
