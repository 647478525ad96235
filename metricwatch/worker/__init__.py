"""The process that computes: python -m metricwatch.worker."""
