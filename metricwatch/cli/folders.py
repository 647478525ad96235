"""What `metricwatch check` finds in the folders of a watch entry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metricwatch import listing
from metricwatch.cli.levels import Finding, error, ok, warning
from metricwatch.config import WatchEntry

# Headers are cheap, but a reference may hold a hundred thousand pictures.
_SAMPLED = 5
_FEWEST_IMAGES = 2


def inspect_entry(where: str, entry: WatchEntry) -> Iterator[Finding]:
    """Look at what one watch entry names: samples, reference, pairs. Reads names and a few image headers."""
    yield inspect_steps(f"{where}.{'samples' if entry.samples else 'checkpoints'}", entry)
    yield from inspect_shared(where, entry)


def inspect_shared(where: str, entry: WatchEntry) -> Iterator[Finding]:
    """Look at what the samples of one watch entry are compared with: reference, pairs."""
    if entry.reference is not None:
        yield _reference(f"{where}.reference", entry.reference)
    if entry.pairs is not None:
        for kind, folder in (("content", entry.pairs.content), ("style", entry.pairs.style)):
            if folder is not None:
                yield _pairs(f"{where}.pairs.{kind}", folder)


def inspect_steps(item: str, entry: WatchEntry) -> Finding:
    """Look at which steps one watch entry matches."""
    from metricwatch.watch.scan import root_of, scan

    pattern = entry.pattern
    found = scan(entry)
    if found.clashes:
        step, one, other = found.clashes[0]
        return warning(item, f"{one} and {other} both claim step {step}; make the pattern narrower or set step_pattern")
    if found.candidates:
        left_out = f", {count(len(found.ignored), 'match', 'matches')} without a step left out" if found.ignored else ""
        return ok(item, f"{pattern} matches {count(len(found.candidates), 'step')} now{left_out}")
    if found.ignored:
        return warning(item, f"{found.ignored[0]} carries no step number that we see; set step_pattern")
    parent = root_of(pattern)
    if Path(parent).is_dir():
        return ok(item, f"{pattern} matches nothing yet")
    return warning(item, f"{parent} does not exist yet; right if the training job creates it")


def _reference(item: str, path: Path) -> Finding:
    try:
        if path.is_dir():
            return _image_folder(item, path)
        if not path.exists():
            return error(item, f"{path} does not exist; name a folder of images or an .npz with mu and sigma")
        if path.suffix == ".npz":
            return _statistics(item, path)
    except OSError as problem:
        return error(item, f"{path} cannot be read: {problem.strerror or problem}")
    return error(item, f"{path} is neither a folder of images nor an .npz with mu and sigma")


def _image_folder(item: str, path: Path) -> Finding:
    from PIL import Image

    names = [entry.name for entry in listing.images(listing.scan(str(path)))]
    if len(names) < _FEWEST_IMAGES:
        return error(item, f"{path} holds {count(len(names), 'image')}; a reference needs at least {_FEWEST_IMAGES}")
    broken = []
    step = max(1, len(names) // _SAMPLED)
    looked_at = names[::step][:_SAMPLED]
    for name in looked_at:
        try:
            with Image.open(path / name):
                pass
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            broken.append(name)
    if len(broken) == len(looked_at):
        return error(item, f"{path}: none of {len(looked_at)} files looked at is a readable image, {broken[0]} for one")
    if broken:
        return warning(item, f"{path}: {', '.join(broken)} of {len(looked_at)} files looked at cannot be read")
    return ok(item, f"{path}: {count(len(names), 'image')}")


def _statistics(item: str, path: Path) -> Finding:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("mu", "sigma") if name not in arrays.files]
            if missing:
                return error(item, f"{path} has no array {' and '.join(missing)}; it has: {', '.join(arrays.files)}")
            mu, sigma = arrays["mu"], arrays["sigma"]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as problem:
        return error(item, f"{path} is not a readable .npz: {problem}")
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
        return error(item, f"{path}: mu {mu.shape} and sigma {sigma.shape} do not fit; wanted (d,) and (d, d)")
    return ok(item, f"{path}: statistics of {mu.size} features")


def _pairs(item: str, folder: Path) -> Finding:
    if not folder.is_dir():
        return error(item, f"{folder} is not a folder; name a folder of images")
    try:
        stems = {Path(entry.name).stem for entry in listing.images(listing.scan(str(folder)))}
    except OSError as problem:
        return error(item, f"{folder} cannot be read: {problem.strerror or problem}")
    if not stems:
        return error(item, f"{folder} holds no images")
    return ok(item, f"{folder}: {count(len(stems), 'stem')}")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """The number with its noun: 1 step, 2 steps."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
