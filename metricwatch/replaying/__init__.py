"""Rules over histories that were recorded elsewhere, or written down for a test.

Both walk the very rules of the daemon (metricwatch.rules): what they say of a history is what the daemon says of it.
"""
