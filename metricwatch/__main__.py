"""`python -m metricwatch` is the `metricwatch` command."""

from metricwatch.cli import main

if __name__ == "__main__":
    main()
