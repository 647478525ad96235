"""python -m metricwatch.worker --read-fd N --write-fd M: started by the daemon, not by people."""

from __future__ import annotations

import argparse

from metricwatch.worker.runtime import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m metricwatch.worker", description="A metricwatch worker process.")
    parser.add_argument("--read-fd", type=int, required=True, help="where requests come from, one JSON object a line")
    parser.add_argument("--write-fd", type=int, required=True, help="where replies go")
    arguments = parser.parse_args()
    serve(arguments.read_fd, arguments.write_fd)


if __name__ == "__main__":
    main()
