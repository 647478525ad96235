"""The drawing process: reads what to draw on stdin, writes pictures on stdout, and is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from metricwatch.drawing.wire import decode_request, encode_pictures

_NICE = 10


def main() -> None:
    # A library that prints must not get between the pictures.
    out = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        # Beside a training job: there is no hurry.
        os.nice(_NICE)
    drawings, form, seconds = decode_request(sys.stdin.buffer.read())
    # Whoever asked may have been killed: nobody else would end a process that hangs.
    signal.alarm(seconds)
    from metricwatch.drawing.rendering import render

    with open(out, "wb") as file:
        file.write(encode_pictures([render(drawing, form) for drawing in drawings]))


if __name__ == "__main__":
    main()
