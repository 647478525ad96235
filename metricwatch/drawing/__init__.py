"""Pictures of curves, samples and metrics, drawn by matplotlib in a short-lived process: the daemon itself stays small.

metricwatch.drawing.curve and .figures say what is to be drawn, .process has it drawn. In that process .rendering draws
with one file for each kind; these import matplotlib.
"""
