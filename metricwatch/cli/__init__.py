"""The metricwatch command, one file a command."""
