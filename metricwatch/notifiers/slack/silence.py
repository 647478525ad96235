"""Keeps slack_sdk from logging."""

from __future__ import annotations

import logging


def silent_logger() -> logging.Logger:
    """A logger outside the tree that passes nothing on: slack_sdk logs addresses at DEBUG and errors at ERROR."""
    return logging.Logger("slack", level=logging.CRITICAL + 1)  # noqa: LOG001 - outside the tree


__all__ = ["silent_logger"]
