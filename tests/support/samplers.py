"""A sampler as somebody else's package brings it: its checkpoint is a line of JSON, and so are its faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin import forget_plugins

MODULE = '''
import json
from dataclasses import dataclass

from metricwatch.api import InputError, Sampler, SamplerSpec


@dataclass(frozen=True)
class Options:
    needs: tuple[str, ...] = ()
    random: bool = True
    size: int = 32


class Painter(Sampler):
    """Paints `level` plus noise, or repeats the content plus `level`."""

    spec = SamplerSpec()
    Options = Options
    opened = closed = 0

    def __init__(self, options=None):
        super().__init__(options)
        self.spec = SamplerSpec(needs=frozenset(self.options.needs), random=self.options.random)
        self.asked = []

    def open(self, checkpoint, device):
        import torch

        with open(checkpoint.path) as file:
            try:
                self.model = json.load(file)
            except ValueError as error:
                raise InputError(f"checkpoint {checkpoint.name} is damaged: {error}") from error
        if write := self.model.get("writes_over"):
            with open(write, "a") as file:
                file.write(" ")
        if self.model.get("no_room_to_load"):
            raise torch.cuda.OutOfMemoryError("no room")
        Painter.opened += 1

    def sample(self, request):
        import torch

        self.asked.append(request)
        if len(request) > self.model.get("room", 1000):
            raise torch.cuda.OutOfMemoryError("no room for a batch")
        if write := self.model.get("writes_over_while_sampling"):
            with open(write, "a") as file:
                file.write(" ")
        if self.model.get("meddles"):
            torch.set_default_dtype(torch.float64)
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if self.model.get("loses_the_device"):
            raise RuntimeError("CUDA error: device-side assert triggered")
        if gives := self.model.get("gives"):
            return eval(gives, {"torch": torch, "n": len(request)})
        level = self.model["level"]
        if self.options.needs:
            return [(picture.float() / 255 + level).flip(-1) for picture in request.content]
        size = self.options.size
        images = level + 0.2 * request.noise(3, size, size)
        if self.model.get("careless"):
            images = level + 0.2 * torch.randn(len(request), 3, size, size)
        for row, name in enumerate(request.names):
            if name in self.model.get("broken", ()) or self.model.get("all_broken"):
                images[row, 0, 0, 0] = float("nan")
        return images

    def close(self):
        Painter.closed += 1
        if self.model.get("cannot_close"):
            raise RuntimeError("it will not close")

    def identity(self):
        return self.model.get("identity", "")
'''


def install_painter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package with the sampler `painter` on the path for one test."""
    metadata = folder / "plugin_painter-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "plugin_painter.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin_painter\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[metricwatch.samplers]\npainter = plugin_painter:Painter\n")
    monkeypatch.syspath_prepend(str(folder))
    forget_plugins()


def write_checkpoint(path: Path, level: float = 0.4, **faults: Any) -> Path:
    """A checkpoint of the painter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"level": level, **faults}))
    return path
