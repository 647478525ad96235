"""metricwatch init: writes a configuration that works as it stands and explains what else there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

_REFERENCE_FOLDERS = ("reference", "data/reference", "references", "data/real", "real")
_CONTENT_FOLDERS = ("content", "data/content")


def command(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("metricwatch.yaml"),
    run: Annotated[
        str | None, typer.Option(help="The run's name in MLflow. [default: MLFLOW_RUN_ID or the folder's name]")
    ] = None,
    samples: Annotated[str, typer.Option(help="Glob of what the job writes: a folder or file a step.")] = "samples/*",
    reference: Annotated[
        Path | None, typer.Option(help="Folder of real images, or .npz statistics, to compare with.")
    ] = None,
    content: Annotated[Path | None, typer.Option(help="Folder of content images with the samples' file stems.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Address of MLflow. [default: MLFLOW_TRACKING_URI or a local database]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a commented metricwatch.yaml that passes `metricwatch check` right away."""
    import os

    from metricwatch.cli import console
    from metricwatch.cli.example import Choices, render

    folder = Path(os.path.abspath(file)).parent
    reference = reference or _existing(folder, _REFERENCE_FOLDERS)
    content = content or _existing(folder, _CONTENT_FOLDERS)
    metrics = _metrics(paired=content is not None)
    text = render(
        Choices(
            run=_run(run, folder),
            samples=_from(folder, samples),
            reference=_from(folder, reference) if reference else None,
            content=_from(folder, content) if content else None,
            tracking_uri=_tracking_uri(tracking_uri),
            metrics=metrics,
        )
    )
    _write(file, text, overwrite=force)
    messages = console.messages()
    messages.print(f"wrote {file}")
    for choice in _explain(metrics, reference, content):
        messages.print(f"  {choice}", soft_wrap=True)
    option = "" if str(file) == "metricwatch.yaml" else f" -c {file}"
    messages.print(f"next: metricwatch check{option}, then metricwatch run{option}")


def _run(name: str | None, folder: Path) -> tuple[str, str]:
    """How the file names the run: key and value."""
    import os

    if name is not None:
        return "name", name
    if os.environ.get("MLFLOW_RUN_ID"):
        return "id", "${MLFLOW_RUN_ID}"
    return "name", folder.name or "my-run"


def _tracking_uri(given: str | None) -> str:
    import os

    if given:
        return given
    return "${MLFLOW_TRACKING_URI}" if os.environ.get("MLFLOW_TRACKING_URI") else "sqlite:///mlflow.db"


def _metrics(*, paired: bool) -> tuple[str, ...]:
    """A metric whose weights are here if there is one: the first run shall show a curve."""
    import os

    from metricwatch.cli.weights import EFFICIENTNET, INCEPTION, find_weights

    here = {}
    for extractor in (INCEPTION, EFFICIENTNET):
        found = find_weights(extractor, None, os.environ)
        here[extractor] = found is not None and found.present
    distance = "fd_efficientnet_lite0" if here[EFFICIENTNET] and not here[INCEPTION] else "fid"
    return (distance, "ssim") if paired else (distance,)


def _explain(metrics: tuple[str, ...], reference: Path | None, content: Path | None) -> Iterator[str]:
    """What was chosen for the user, and why."""
    why = ""
    if metrics[0] == "fd_efficientnet_lite0":
        why = " (Inception-v3's weights are not here; with them, or where they can be downloaded, name fid)"
    yield f"metrics: {', '.join(metrics)}{why}"
    yield f"reference: {reference or 'none yet, set it'}"
    if content is not None:
        yield f"pairs: {content}"


def _existing(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _from(folder: Path, path: Path | str) -> str:
    """A path as the file must write it: what is relative here is relative to the file's folder there."""
    import os

    text = os.path.expanduser(str(path))
    if isinstance(path, str) and os.path.isabs(text):
        return text
    inside = os.path.relpath(os.path.abspath(text), folder)
    # Far away, an absolute path says more than a row of dots.
    return os.path.abspath(text) if inside.startswith(os.path.join("..", "..", "..")) else inside


def _write(file: Path, text: str, *, overwrite: bool) -> None:
    """Write all of it or nothing. Raises InputError when the file is there already or its folder is not."""
    import os

    from metricwatch.errors import InputError

    if not file.parent.is_dir():
        raise InputError(f"{file.parent} does not exist; create the folder first")
    try:
        if not overwrite:
            # Taking the name first: a rename would silently replace what another process wrote meanwhile.
            file.open("x").close()
    except FileExistsError:
        raise InputError(f"{file} exists already; write another file, or overwrite it with --force") from None
    # Beside the target, so that the last step is a rename within one file system.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if not overwrite:
            file.unlink(missing_ok=True)
        raise
