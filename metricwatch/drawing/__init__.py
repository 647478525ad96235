"""Pictures of curves, drawn by matplotlib in a short-lived process: the daemon itself stays small.

metricwatch.drawing.curve says what is to be drawn, .process has it drawn, .figure draws (and imports matplotlib).
"""
