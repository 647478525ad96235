"""Drains the outbox into sinks."""
