"""Samplers that run a diffusers pipeline: text-to-image, or unconditional."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from metricwatch.api import Checkpoint, ConfigError, Ema, InputError, Sampler, SampleRequest, SamplerSpec

from metricwatch_diffusers.base import Base

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersOptions:
    """steps is the pipeline's num_inference_steps. What is None is left to the pipeline's own default.

    base: a pipeline's folder that brings all but the trained part; without it a checkpoint is a whole pipeline. part is
    that component's name ("unet", "transformer"). ema: whether the folder <part>_ema of a checkpoint is taken instead
    ("auto": where it is there). height and width are in pixels.
    """

    steps: int = 25
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    eta: float | None = None
    base: Path | None = None
    part: str = "unet"
    ema: Ema = "auto"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Raises ConfigError for what no pipeline can do."""
        for name in ("steps", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if not self.part.isidentifier():
            raise ConfigError(f"part must be the name of a pipeline's component, such as unet, not {self.part!r}")

    def arguments(self, count: int) -> dict[str, Any]:
        """What a user asks a pipeline for beside the steps, for so many pictures, by the names of its parameters."""
        asked = {name: getattr(self, name) for name in ("guidance_scale", "height", "width", "eta")}
        if self.negative_prompt is not None:
            asked["negative_prompt"] = [self.negative_prompt] * count
        return {name: value for name, value in asked.items() if value is not None}


class PipelineSampler(Sampler):
    """Opens checkpoints and asks the pipeline. Subclasses say what of a request it is asked with.

    Without `base` a checkpoint is a folder with model_index.json. With it, it is the trained part: a folder with
    config.json and safetensors, or one that has such a folder named as the part (a whole pipeline is one, too).
    The rest of the base stays loaded, on the device, from the first checkpoint to the last.
    """

    Options = DiffusersOptions
    # The pipeline's parameter that tells it how many pictures to make, and of what.
    counted_by: ClassVar[str]

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._pipeline: Any = None
        self._base = Base(self.options) if self.options.base else None
        self._name = ""

    @abstractmethod
    def counted(self, request: SampleRequest) -> dict[str, Any]:
        """The arguments that hang on the request."""

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        """Load the checkpoint: safetensors alone, and no code of its own.

        Raises InputError when it is damaged, of another model, or a pipeline that cannot be asked with the options.
        """
        self.close()
        whose = checkpoint.name or Path(checkpoint.path).name
        folder = Path(checkpoint.path)
        pipeline = self._base.with_part_of(folder, whose) if self._base else _whole(folder, self.options, whose)
        self._refuse_unfit(pipeline, whose)
        self._pipeline, self._name = pipeline.to(device), whose

    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        """Pictures (3, H, W) or (1, H, W), floating point in 0..1. Each hangs on its own generator alone.

        Raises InputError when the pipeline refuses to be asked so, or makes something else than pictures.
        """
        import torch

        try:
            images = self._pipeline(
                **self.options.arguments(len(request)),
                **self.counted(request),
                num_inference_steps=self.options.steps,
                generator=request.generators(),
                output_type="pt",
            ).images
        except (TypeError, ValueError) as error:
            name = type(self._pipeline).__name__
            raise InputError(f"{self._name}: a {name} cannot be asked so: {_short(error)}") from error
        # Some pipelines know no "pt" and give arrays, with the channels last.
        pictures = [
            image if isinstance(image, torch.Tensor) else torch.as_tensor(image).movedim(-1, 0) for image in images
        ]
        if odd := [tuple(picture.shape) for picture in pictures if len(picture) not in {1, 3}]:
            raise InputError(f"{self._name}: its pictures have the shape {odd[0]}; only RGB and grey ones are scored")
        return pictures

    def close(self) -> None:
        """Let go of the checkpoint; what came from `base` stays."""
        self._pipeline = None

    def identity(self) -> str:
        """The version of diffusers, the scheduler's class, and a fingerprint of what came from `base`."""
        import diffusers

        scheduler = type(getattr(self._pipeline, "scheduler", None)).__name__
        return f"diffusers {diffusers.__version__}, {scheduler}" + (f", base {self._base.digest}" if self._base else "")

    def _refuse_unfit(self, pipeline: Any, whose: str) -> None:
        """Raises InputError where the pipeline's call does not take what it will be asked with."""
        whose = f"{whose}: a {type(pipeline).__name__}"
        taken = inspect.signature(pipeline.__call__).parameters
        if "prompt" in taken and self.counted_by != "prompt":
            raise InputError(f"{whose} takes prompts; write use: diffusers")
        if self.counted_by not in taken:
            hint = "; write use: diffusers_unconditional" if "batch_size" in taken else ""
            raise InputError(f"{whose} takes no {self.counted_by}{hint}")
        if lacking := [name for name in ("generator", "output_type", "num_inference_steps") if name not in taken]:
            raise InputError(
                f"{whose} takes no {lacking[0]}, so that it cannot be asked for samples that are repeatable"
            )
        given = {self.counted_by, *self.options.arguments(1)}
        if unknown := sorted(given - set(taken)):
            raise InputError(f"{whose} takes no {unknown[0]}; leave that option out")
        needed = {
            name for name, item in taken.items() if item.default is item.empty and item.kind is not item.VAR_KEYWORD
        }
        if missing := sorted(needed - given):
            raise InputError(f"{whose} needs {missing[0]}, which samples do not have")


class DiffusersSampler(PipelineSampler):
    """Text-to-image pipelines: each sample has a prompt."""

    spec = SamplerSpec(needs=frozenset({"prompt"}))
    counted_by = "prompt"

    def counted(self, request: SampleRequest) -> dict[str, Any]:
        return {"prompt": list(request.prompts)}


class UnconditionalDiffusersSampler(PipelineSampler):
    """Pipelines that are told how many pictures to make and nothing else, such as DDPM and DDIM."""

    spec = SamplerSpec()
    counted_by = "batch_size"

    def counted(self, request: SampleRequest) -> dict[str, Any]:
        return {"batch_size": len(request)}


def _whole(folder: Path, options: DiffusersOptions, whose: str) -> Any:
    from metricwatch_diffusers.folders import CONFIG, INDEX, read_index
    from metricwatch_diffusers.loading import load_pipeline

    if not (folder / INDEX).exists() and any((place / CONFIG).exists() for place in (folder, folder / options.part)):
        raise InputError(
            f"{whose}: holds a part of a pipeline and no {INDEX}; name in the option base the folder of the pipeline"
            " that it belongs to"
        )
    return load_pipeline(read_index(folder, whose), {}, options.dtype, whose)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
