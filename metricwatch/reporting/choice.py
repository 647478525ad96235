"""Which of a run's pictures stand for a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from metricwatch.records import StoredPicture
from metricwatch.reporting.content import Shown

# Of a run without contact sheets: so many samples of a step, or pictures that somebody else logged.
_MOST_SAMPLES = 4
_AT_EACH_STEP = ("contact_sheet", "comparison")
_AT_THE_END = ("radar", "lookalikes")
_TITLES = {
    "contact_sheet": "Samples",
    "comparison": "Beside content and style",
    "radar": "All metrics",
    "lookalikes": "Nearest images of the reference",
}


class Choice:
    """The pictures of a run by key and step. Of a step that was drawn twice, the newer one."""

    def __init__(self, pictures: Iterable[StoredPicture], prefix: str) -> None:
        self._prefix = f"{prefix}/"
        self._by_key: dict[str, dict[int, StoredPicture]] = {}
        for picture in sorted(pictures, key=lambda picture: picture.timestamp_ms):
            self._by_key.setdefault(picture.key, {})[picture.step] = picture

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def of_step(self, step: int) -> tuple[Shown, ...]:
        """What shows a step, or the step with pictures that is nearest to it."""
        found = self._named(_AT_EACH_STEP, step)
        return found or tuple(
            Shown(title=self._plain(key), picture=_nearest(self._by_key[key], step)) for key in self._samples(step)
        )

    def of_end(self, step: int) -> tuple[Shown, ...]:
        """What shows the run as a whole at its last step."""
        return self._named(_AT_THE_END, step)

    def _named(self, names: Sequence[str], step: int) -> tuple[Shown, ...]:
        return tuple(
            Shown(title=_TITLES[name], picture=_nearest(self._by_key[key], step))
            for name in names
            if (key := self._prefix + name) in self._by_key
        )

    def _samples(self, step: int) -> list[str]:
        """The keys of samples, else of anything; those with a picture of this very step first."""
        plots = {self._prefix + name for name in _TITLES}
        keys = [key for key in self._by_key if key.startswith(f"{self._prefix}samples/")]
        keys = keys or [key for key in self._by_key if key not in plots]
        return sorted(keys, key=lambda key: (step not in self._by_key[key], key))[:_MOST_SAMPLES]

    def _plain(self, key: str) -> str:
        return key.removeprefix(self._prefix)


def _nearest(pictures: dict[int, StoredPicture], step: int) -> StoredPicture:
    return pictures[min(pictures, key=lambda other: (abs(other - step), other))]
