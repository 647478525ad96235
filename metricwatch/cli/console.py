"""What people and programs read: results on stdout, everything else on stderr.

At a terminal, colours and wrapped tables; in a pipe or a file, plain lines that nothing wraps or cuts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Characters that move the cursor, change colours or turn the direction of writing; and halves of characters.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Wide enough that rich never wraps a line of a pipe.
_UNWRAPPED = 1_000_000


def visible(text: str) -> str:
    r"""The text on one line, its control characters spelled out (\n, \x1b): a file name may hold anything."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def results() -> Console:
    """The console of stdout: what the user asked for."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console of stderr: progress, warnings, hints."""
    return _console(sys.stderr)


def print_json(document: Any) -> None:
    """One JSON document on stdout, readable by people too. Non-finite numbers are refused with ValueError.

    Characters that a terminal obeys, or that stdout's encoding lacks, are written as JSON's own escapes.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)
    print(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def print_table(
    headers: Sequence[str] | None,
    rows: Sequence[Sequence[str]],
    *,
    styles: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> None:
    """Aligned columns, by default on stdout. At a terminal long cells fold; elsewhere a row is a line.

    styles gives a rich style to every cell of exactly that text; only a terminal shows it.
    """
    console = console or results()
    rows = [[visible(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for line in _aligned([[header.upper() for header in headers], *rows] if headers else rows):
            console.print(line)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    width = max((len(row) for row in rows), default=0)
    table = Table(box=box.SIMPLE_HEAD if headers else None, show_header=bool(headers), pad_edge=False)
    for header in headers or [""] * width:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    console.print(table)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _laid_out(text: str) -> str:
    """The text with its control characters spelled out, save the line breaks that lay it out.

    Those are the ones around it, and those after which its own indentation goes on.
    """
    body = text.strip("\n")
    start, end = (text[: text.index(body)], text[text.index(body) + len(body) :]) if body else ("", text)
    indent = body[: len(body) - len(body.lstrip(" "))]
    lines = body.split(f"\n{indent}") if indent else [body]
    return start + f"\n{indent}".join(visible(line) for line in lines) + end


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class Visible(Console):
        """Prints text so that nothing in it can command the terminal."""

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(_laid_out(item) if isinstance(item, str) else item for item in objects), **options)

    terminal = stream.isatty()
    # Markup off: a path such as runs/[a] is text, not a style.
    return Visible(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal else _UNWRAPPED,
        soft_wrap=not terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )


def number(value: float | None) -> str:
    """A number for a table, small ones with an exponent; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3e}"  # noqa: PLR2004
