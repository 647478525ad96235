"""Callbacks that save sample sets from Lightning's and Hugging Face's trainers.

metricwatch.callbacks.lightning, .pytorch_lightning (the older package name) and .transformers each have a
SnapshotCallback. Importing this package imports none of the three.
"""
