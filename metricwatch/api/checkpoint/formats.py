"""Tells what kind of file lies there by what is in it: a name says little, and a link to it even less."""

from __future__ import annotations

import zipfile
from typing import Literal

from metricwatch.errors import InputError, TemporaryError

Format = Literal["torch", "legacy torch", "safetensors", "torchscript", "torch_export"]

# What other programs write, and what git leaves where the file itself was not fetched.
_FOREIGN = (
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a pointer of git-lfs: fetch the file itself (git lfs pull)"),
    (b"<", "a web page or XML"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
)
_ENOUGH = 64


def told(path: str, name: str) -> Format:
    """The format of a file. Raises InputError naming it where it is empty, cut short or of a format we do not read."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(_ENOUGH)
    except OSError as error:
        raise trouble(error, name) from error
    if not start:
        raise InputError(f"{name} is empty; was the job ended while it was saving?")
    if start.startswith(b"PK"):
        return _archive(path, name)
    if _is_safetensors(start):
        return "safetensors"
    # A pickle of protocol 2 and above: torch.save as it was before torch 1.6.
    if start[0] == 0x80:  # noqa: PLR2004 - the opcode PROTO
        return "legacy torch"
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise InputError(f"{name} is {what}; checkpoints are files of torch.save or safetensors")
    raise InputError(
        f"{name} is neither a file of torch.save nor safetensors (it begins with {start[:8]!r}): "
        "of another format, or damaged"
    )


def trouble(error: OSError, name: str) -> InputError | TemporaryError:
    """What to raise for a file that cannot be read: it is not there for us, or the disk does not answer."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return InputError(f"{name} cannot be read: {reason}")
    return TemporaryError(f"{name} cannot be read now: {reason}")


def is_no_room(error: BaseException) -> bool:
    """True where memory ran out, which says nothing about the file."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    )


def _is_safetensors(start: bytes) -> bool:
    """The length of a JSON object in 8 bytes, little end first, and its brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def _archive(path: str, name: str) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except OSError as error:
        raise trouble(error, name) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        # The list of members stands at the end: a file cut short has none.
        raise InputError(f"{name} is cut short or damaged: its end is not that of an archive ({error})") from error
    # All members lie in one folder, which torch names after the file.
    inner = {member.partition("/")[2] for member in members}
    if any(member.startswith("code/") for member in inner):
        return "torchscript"
    if "archive_format" in inner or any(member.startswith("models/") for member in inner):
        return "torch_export"
    # torch.export.save before torch 2.8.
    if "serialized_exported_program.json" in members:
        return "torch_export"
    if "data.pkl" in inner:
        return "torch"
    shown = ", ".join(sorted(members)[:3])
    raise InputError(f"{name} is an archive, and not one of torch.save: it holds {shown or 'nothing'}")
