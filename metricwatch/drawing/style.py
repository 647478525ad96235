"""What all drawings share: colours, words that fit on one line, and matplotlib's settings. Imports matplotlib.

Colours are those of Okabe and Ito (jfly.uni-koeln.de/color), which people with any kind of colour vision tell apart;
nothing is told by colour alone.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl

BLUE, ORANGE, SKY, VERMILION = "#0072B2", "#E69F00", "#56B4E9", "#D55E00"
INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
# In points. Readable where a mail program shrinks 640 points to 480.
SMALL, NORMAL = 9, 11

# What no font can show, and what would turn the writing round beyond its own line.
_UNSEEN = frozenset({"Cc", "Cs", "Cn", "Co"})
_TURNS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@contextmanager
def settings() -> Iterator[None]:
    """The settings of matplotlib itself and those of all our drawings, whatever a file or another caller has set."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A matplotlibrc of the user's, or of the folder we were started in, is not for this.
        mpl.rcdefaults()
        # A name in a writing that the font lacks is drawn as boxes: no news.
        warnings.simplefilter("ignore")
        mpl.rcParams.update(
            {
                "text.parse_math": False,
                "svg.hashsalt": "metricwatch",
                "hatch.linewidth": 0.6,
                "font.size": SMALL,
                "axes.unicode_minus": True,
                "path.simplify": True,
            }
        )
        yield


def one_line(text: str) -> str:
    """The text on one line, without what no font can show."""
    text = "".join("�" if unicodedata.category(char) in _UNSEEN else char for char in text if char not in _TURNS)
    return " ".join(text.split())


def shown(text: str, most: int) -> str:
    """The text on one line, of at most so many letters."""
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
