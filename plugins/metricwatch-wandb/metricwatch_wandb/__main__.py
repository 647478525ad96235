"""python -m metricwatch_wandb FD: started by the sink, not by people. FD is a socket with one JSON object a line."""

from __future__ import annotations

import signal
import socket
import sys

from metricwatch_wandb.serving import serve


def main() -> None:
    # Who stops the daemon's group stops the daemon: this process follows once it has passed on what it holds.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
