"""The sampler `python`: a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metricwatch.api import Checkpoint, ConfigError, InputError, Sampler, SampleRequest, SamplerSpec

from . import functions
from .outputs import pictures

if TYPE_CHECKING:
    from torch import Tensor

_GIVEN = ("checkpoint", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOptions:
    """function: "module:function", in a module that can be imported, or one in the folder path. arguments are passed
    to it by name. needs: the partners that it asks for. random: whether samples hang on their seeds.
    """

    function: str
    path: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Literal["content", "style", "prompt"], ...] = ()
    random: bool = True

    def __post_init__(self) -> None:
        functions.check_reference(self.function, "function", self.path)
        if given := [key for key in _GIVEN if key in self.arguments]:
            raise ConfigError(
                f"arguments has {given[0]!r}, which the function is given anyway; give yours another name"
            )


class PythonSampler(Sampler):
    """Calls function(checkpoint, device, **arguments) for each checkpoint; what it returns makes the samples.

    That is a callable: it takes a SampleRequest and gives pictures (N, 3 or 1, H, W), or a list of (3 or 1, H, W), of
    values 0..1 or uint8. Random numbers come from the request (request.noise, request.generators). The function runs
    with all rights of the worker. Another version of its file is another series of scores.
    """

    spec = SamplerSpec()
    Options = PythonOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        # What this instance asks for is what its options say.
        self.spec = SamplerSpec(needs=frozenset(self.options.needs), random=self.options.random)
        self._made: Callable[[SampleRequest], Any] | None = None
        self._name = ""
        self._device = "cpu"

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        self.close()
        reference = self.options.function
        function = functions.find(reference, self.options.path, "function")
        self._name = checkpoint.name or checkpoint.path
        self._device = device
        with functions.blaming(f"{self._name}: {reference}"):
            made = function(checkpoint, device, **self.options.arguments)
        if not callable(made):
            raise InputError(
                f"{reference} gave a {type(made).__name__}; wanted is a function that makes pictures of a request"
            )
        self._made = made

    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        if self._made is None:
            raise RuntimeError("the sampler is not open")
        who = f"{self._name}: what {self.options.function} returned"
        with functions.blaming(who):
            made = self._made(request)
        return pictures(made, len(request), who)

    def close(self) -> None:
        if self._made is None:
            return
        self._made = None
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def identity(self) -> str:
        return functions.identity(self.options.function)
