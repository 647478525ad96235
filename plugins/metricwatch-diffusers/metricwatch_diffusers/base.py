"""The pipeline that a trained part belongs to: loaded once, and given one checkpoint's part after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metricwatch.api import InputError

from metricwatch_diffusers.folders import (
    CONFIG,
    PipelineIndex,
    fingerprint,
    part_folder,
    read_index,
    read_json,
)

if TYPE_CHECKING:
    from metricwatch_diffusers.sampler import DiffusersOptions

# What must be alike for a part to fit the rest of a pipeline, as far as its configuration tells.
_INTERFACE = ("in_channels", "out_channels", "cross_attention_dim", "joint_attention_dim", "pooled_projection_dim")


class Base:
    """The folder of options.base. Its own copy of the part is not loaded, and need not be there.

    digest: eight hexadecimal digits of all but the part, "" before the first use.
    """

    def __init__(self, options: DiffusersOptions) -> None:
        self._options = options
        self._folder = Path(options.base or "")
        self._name = f"base {self._folder.name}"
        self._index: PipelineIndex | None = None
        self._rest: dict[str, Any] = {}
        self.digest = ""

    def with_part_of(self, folder: Path, whose: str) -> Any:
        """A pipeline of the checkpoint's part and the base's other components, these wherever they were moved to.

        Raises InputError where the part or the base cannot be loaded, or the one does not fit the other.
        """
        from metricwatch_diffusers.loading import load_part, load_pipeline

        part, dtype = self._options.part, self._options.dtype
        index = self._index or read_index(self._folder, self._name)
        if part not in index.components:
            known = ", ".join(sorted(index.components))
            raise InputError(f"{self._name}: has no {part}; set the option part to what is trained, one of: {known}")
        place = part_folder(folder, part, self._options.ema, whose)
        self._refuse_misfit(index, place, whose)
        model = load_part(place, dtype, whose)
        pipeline = load_pipeline(index, {**self._rest, part: model}, dtype, self._name)
        if self._index is None:
            self._rest = {name: component for name, component in pipeline.components.items() if name != part}
            self._index, self.digest = index, fingerprint(index, part)
        return pipeline

    def _refuse_misfit(self, index: PipelineIndex, place: Path, whose: str) -> None:
        part = self._options.part
        config = read_json(place / CONFIG, whose)
        expected = index.components[part][1]
        if (found := config.get("_class_name")) != expected:
            raise InputError(f"{whose}: is a {found}, and the {part} of {self._name} is a {expected}")
        if not (index.folder / part / CONFIG).is_file():
            return
        replaced = read_json(index.folder / part / CONFIG, self._name)
        for key in _INTERFACE:
            if key in config and key in replaced and config[key] != replaced[key]:
                raise InputError(f"{whose}: does not fit {self._name}: its {key} is {config[key]}, not {replaced[key]}")
