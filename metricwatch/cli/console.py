"""What people and programs read: results on stdout, everything else on stderr.

At a terminal, colours and wrapped tables; in a pipe or a file, plain lines that nothing wraps or cuts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough that rich never wraps a line of a pipe.
_UNWRAPPED = 1_000_000


def results() -> Console:
    """The console of stdout: what the user asked for."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console of stderr: progress, warnings, hints."""
    return _console(sys.stderr)


def print_json(document: Any) -> None:
    """One JSON document on stdout, readable by people too. Non-finite numbers are refused with ValueError."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


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


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    terminal = stream.isatty()
    # Markup off: a path such as runs/[a] is text, not a style.
    return Console(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal else _UNWRAPPED,
        soft_wrap=not terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )
