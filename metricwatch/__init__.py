"""metricwatch: watches a training job's samples, scores them, draws the curves and raises the alarm.

The public API is torch-free: plugin authors import from metricwatch.api.
"""

__version__ = "0.1.0"
