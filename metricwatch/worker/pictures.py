"""Files of pictures, each read, hashed and decoded once however many items it belongs to, as far as memory allows."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.images import Pixels, decode, read


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

    @property
    def failed(self) -> bool:
        """True once it has proved unusable."""
        return self._failure is not None

    @property
    def nbytes(self) -> int:
        """The memory that it takes now, content and pixels. Waits for nobody: it may be out of date."""
        content, pixels = self._content, self._pixels
        return (len(content) if content else 0) + (pixels.nbytes if pixels is not None else 0)

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
    """The pictures of a pass by path, those that are used more than once kept for their next use.

    Kept ones take at most `most_bytes`, the least recently used going first: one that comes back is read anew. After
    as many uses as its path is in the list a picture is forgotten.
    """

    def __init__(self, paths: Iterable[str], max_pixels: int, most_bytes: int = 256_000_000) -> None:
        self._uses = Counter(paths)
        self._max_pixels = max_pixels
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def use(self, path: str) -> Picture:
        """The picture at a path, one use of which is now taken. Give it back with done() when it is over."""
        with self._lock:
            picture = self._kept.get(path) or Picture(path, self._max_pixels)
            self._uses[path] -= 1
            if self._uses[path] > 0:
                self._kept[path] = picture
                self._kept.move_to_end(path)
            else:
                self._kept.pop(path, None)
                del self._uses[path]
            return picture

    def done(self) -> None:
        """Some uses are over: let go of what is too much."""
        with self._lock:
            total = sum(picture.nbytes for picture in self._kept.values())
            while total > self._most_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                total -= oldest.nbytes
