"""Files of pictures, each read, hashed and decoded at most once however many items it belongs to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

from metricwatch.worker.images import Pixels, UnusableImageError, decode, read


class Picture:
    """One file. Safe to use from several threads; a failure is raised anew at every use."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self.path = path
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._content: bytes | None = None
        self._digest: bytes | None = None
        self._pixels: Pixels | None = None
        self._failure: UnusableImageError | None = None

    @property
    def digest(self) -> bytes:
        """BLAKE2b of the file's content, 16 bytes. Raises UnusableImageError when it cannot be read."""
        with self._lock:
            return self._read()[1]

    def pixels(self) -> tuple[Pixels, bool]:
        """uint8 (H, W, 3), and True when this very call decoded them. Raises UnusableImageError."""
        with self._lock:
            if self._pixels is not None:
                return self._pixels, False
            content, _ = self._read()
            try:
                self._pixels = decode(content, self._max_pixels)
            except UnusableImageError as error:
                self._failure = error
                raise
            self._content = b""
            return self._pixels, True

    def _read(self) -> tuple[bytes, bytes]:
        if self._failure is not None:
            # A new object each time: its traceback would grow with every raise.
            raise UnusableImageError(str(self._failure))
        if self._content is None or self._digest is None:
            try:
                self._content = read(self.path, self._max_pixels)
            except UnusableImageError as error:
                self._failure = error
                raise
            self._digest = blake2b(self._content, digest_size=16).digest()
        return self._content, self._digest


class Pictures:
    """The pictures of a pass by path. Each is forgotten after as many uses as it has paths in the list."""

    def __init__(self, paths: Iterable[str], max_pixels: int) -> None:
        self._uses = Counter(paths)
        self._max_pixels = max_pixels
        self._open: dict[str, Picture] = {}
        self._lock = threading.Lock()

    def use(self, path: str) -> Picture:
        """The picture at a path, one use of which is now taken."""
        with self._lock:
            picture = self._open.get(path) or Picture(path, self._max_pixels)
            self._uses[path] -= 1
            if self._uses[path] > 0:
                self._open[path] = picture
            else:
                self._open.pop(path, None)
            return picture
