"""The report of a run: what a sink holds of it, on one page that can be mailed."""
