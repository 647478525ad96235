"""Where a network's weights lie: what every kind of place has in common."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from metricwatch.errors import MissingWeightsError

# Told the bytes that are there and how many there will be; 0 where nobody knows yet.
Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Nobody is looking."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource(ABC):
    """Where the weights of one extractor are, and how they get there.

    published is how the SHA-256 of the published file begins, "" where none is published. alternative is a sentence:
    what to use where the weights cannot be had. downloadable says whether fetch() can ever succeed by itself.
    """

    downloadable: ClassVar[bool] = True

    extractor: str
    published: str = ""
    alternative: str = ""

    @abstractmethod
    def place(self, environ: Mapping[str, str] = os.environ) -> str:
        """Where the weights belong on this machine: a path, whether or not anything is there."""

    @abstractmethod
    def cached(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The path of the weights that are in their place, or None."""

    @abstractmethod
    def absence(self, environ: Mapping[str, str] = os.environ) -> str:
        """A sentence about weights that are not in their place: which file, how to get it, what to use instead."""

    @abstractmethod
    def fetch(self, progress: Progress = silent, environ: Mapping[str, str] = os.environ) -> str:
        """The path of the weights, downloaded into their place where they were not there.

        A download appears in its place whole and checked, or not at all. Raises MissingWeightsError saying what
        failed and what else can be done; a server that says nothing for 20 seconds is a failure.
        """

    def locate(self, explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
        """The path of the weights: the explicit one, else the one in their place. Nothing is downloaded.

        Raises MissingWeightsError naming what is missing and what to do.
        """
        if explicit:
            path = os.path.expanduser(explicit)
            if problem := self.problem(path):
                raise MissingWeightsError(
                    f"{self.extractor}: no weights at {path}: it {problem}; "
                    f"correct extractors.{self.extractor}.weights (score: --weights) or remove it"
                )
            return path
        found = self.cached(environ)
        if found is None:
            raise MissingWeightsError(f"{self.extractor}: {self.absence(environ)}")
        return found

    def problem(self, path: str) -> str:
        """Why weights cannot be at a path, as a predicate ("does not exist"); "" where they can."""
        if os.path.isfile(path):
            return ""
        return "is a folder; name the file in it" if os.path.isdir(path) else "does not exist"

    def digest(self, path: str) -> str:
        """The SHA-256 of weights at a path, 64 hex digits."""
        return file_digest(path)

    def size(self, path: str) -> int:
        """How many bytes weights at a path take."""
        return os.path.getsize(path)

    def advice(self) -> str:
        """The end of a sentence: how to name a copy, and the alternative."""
        name = f"name a copy as extractors.{self.extractor}.weights (score: --weights {self.extractor}=PATH)"
        return f"{name}. Without internet: {self.alternative}" if self.alternative else name


def file_digest(path: str) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
