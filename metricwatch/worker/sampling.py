"""From a checkpoint to items to score: samples made lot by lot, on the device, and never written to a disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from metricwatch import catalog
from metricwatch.api import Checkpoint, Need, Sampler, SampleRequest
from metricwatch.errors import ConfigError, InputError, TemporaryError
from metricwatch.protocol import Evaluate, Sampling
from metricwatch.records import KeptSample
from metricwatch.worker.batches import is_no_room
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.device_state import undisturbed
from metricwatch.worker.images import Pixels, decode_threads
from metricwatch.worker.log import LogLine, log_failure, one_line
from metricwatch.worker.pictures import Pictures
from metricwatch.worker.pins import Pinned
from metricwatch.worker.plan import Item, Role
from metricwatch.worker.read_ahead import ReadAhead
from metricwatch.worker.sample_plan import PlannedSample, SamplePlan

# A network that is trained to give 0..1 overshoots a little.
_BEYOND = 0.5
_PICTURE_KINDS: tuple[Literal["content", "style"], ...] = ("content", "style")


class Samplers:
    """The samplers of this worker, each made once: what all checkpoints share stays loaded."""

    def __init__(self) -> None:
        self._made: dict[str, Sampler] = {}
        self._told: set[str] = set()

    def get(self, sampling: Sampling) -> Sampler:
        """The sampler with these options. Raises ConfigError when it refuses them, PluginError when it cannot load."""
        key = _key(sampling)
        if key not in self._made:
            with undisturbed():
                cls = catalog.load_sampler(sampling.use)
                try:
                    self._made[key] = cls(_options(cls, sampling)) if sampling.options else cls()
                except TypeError as error:
                    raise ConfigError(f"sampler {sampling.use!r}: {error}") from error
        return self._made[key]

    def close(self, sampling: Sampling, log: LogLine) -> None:
        """Have it let go of its checkpoint. One that cannot is given up: what was scored is scored all the same."""
        key = _key(sampling)
        try:
            with undisturbed():
                self._made[key].close()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            log_failure(log, "sampler not closed", error, sampler=sampling.use)
            del self._made[key]

    def note_range(self, session: Session, log: LogLine) -> None:
        """Say once of a sampler that its values go far beyond 0..1: scores of another range mean little."""
        key = _key(session.sampling)
        if key in self._told or (session.least >= -_BEYOND and session.most <= 1.0 + _BEYOND):
            return
        self._told.add(key)
        reached = f"values from {session.least:.3g} to {session.most:.3g}"
        reason = f"{reached} were clamped to 0..1; is the range right that it is told, or that it gives?"
        log("warning", "samples clamped", sampler=session.sampling.use, reason=reason)


def _key(sampling: Sampling) -> str:
    return json.dumps([sampling.use, dict(sampling.options)], sort_keys=True)


def _options(cls: type[Sampler], sampling: Sampling) -> object:
    if cls.Options is None:
        raise ConfigError(f"sampler {sampling.use!r} takes no options")
    return cls.Options(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in sampling.options.items()}
    )


class Session:
    """One checkpoint, open in its sampler. seconds are those spent on loading and on sampling.

    broken counts the samples with values that are not finite; least and most are the values that the others reach.
    """

    def __init__(
        self,
        request: Evaluate,
        sampler: Sampler,
        plan: SamplePlan,
        device: torch.device,
        *,
        batch_size: int,
        max_pixels: int,
        log: LogLine,
        clock: Callable[[], float],
    ) -> None:
        assert request.sampling is not None  # noqa: S101 - whoever samples has a checkpoint
        self.plan = plan
        self.kept: list[KeptSample] = []
        self.broken = 0
        self.least, self.most = 0.0, 1.0
        self.seconds = {"load": 0.0, "sample": 0.0}
        self._request = request
        self._partner_digests: dict[str, list[str]] = {}
        self.sampling = request.sampling
        self._sampler = sampler
        self._device = device
        self._size = request.sampling.batch_size or batch_size
        self._max_pixels = max_pixels
        self._log = log
        self._clock = clock

    def open(self, pin: Pinned) -> None:
        """Load the checkpoint. Raises InputError when it cannot be, ChangedError when it was written to meanwhile."""
        checkpoint = Checkpoint(path=pin.path, name=pin.name, step=self._request.step)
        began = self._clock()
        try:
            with undisturbed(), torch.no_grad():
                self._sampler.open(checkpoint, str(self._device))
        except Exception as error:
            # What was read while the trainer wrote is nobody's fault.
            pin.check()
            if is_no_room(error):
                raise self._no_room(f"checkpoint {pin.name}: there is no room to load it: {error}") from error
            raise
        finally:
            self.seconds["load"] += self._clock() - began
        pin.check()

    def provenance(self) -> dict[str, str]:
        """What the samples hang on beside the checkpoint: the sampler, and all that it makes them from.

        To be asked when the samples are made and the sampler is still open.
        """
        spec = self._sampler.spec
        made_from = [
            [
                sample.name,
                sample.seed if spec.random else None,
                sample.pair.prompt if "prompt" in spec.needs else None,
                self._partner_digests.get(sample.name),
            ]
            for sample in self.plan.samples
        ]
        parts = [self.sampling.use, dict(self.sampling.options), self._sampler.identity(), made_from]
        digest = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {"sampler": self.sampling.use, "sampler_digest": digest}

    def partner_paths(self) -> list[str]:
        """The pictures that the sampler reads, each as often as it does."""
        return [path for sample in self.plan.samples for _, path in sorted(self._own(sample).items())]

    def lots(
        self,
        items: Sequence[Item],
        pictures: Pictures,
        *,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
    ) -> Iterator[list[Item]]:
        """Yield the items with their images made, lot by lot.

        skip(name, reason) hears of each that cannot be: a partner is unusable, or the sample is not finite. Raises
        InputError for what no sampler may give.
        """
        by_name = {item.name: item for item in items}
        reader = ReadAhead(
            self.plan.samples,
            lambda sample: (sample, *self._read(sample, pictures)),
            weigh=lambda read: sum(each.nbytes for each in read[1].values()),
            ahead=2 * self._size,
            threads=decode_threads(),
        )
        waiting: list[tuple[Item, PlannedSample, Mapping[Need, Pixels]]] = []
        for sample, read, reason in reader:
            item = by_name[sample.name]
            if reason:
                skip(item.path, reason)
                advance(1)
                continue
            waiting.append((item, sample, read))
            if len(waiting) >= self._size:
                yield from self._made(waiting, skip, advance)
                waiting = []
        yield from self._made(waiting, skip, advance)

    def _own(self, sample: PlannedSample) -> dict[Need, str]:
        """The partners that the sampler reads."""
        return {kind: path for kind, path in sample.pair.partners.items() if kind in self._sampler.spec.needs}

    def _read(self, sample: PlannedSample, pictures: Pictures) -> tuple[dict[Need, Pixels], str]:
        own = self._own(sample)
        # All uses are taken whatever happens, so that shared pictures are forgotten in time.
        opened = {kind: pictures.use(path) for kind, path in sorted(own.items())}
        try:
            self._partner_digests[sample.name] = [picture.digest.hex() for picture in opened.values()]
            return {kind: picture.pixels()[0] for kind, picture in opened.items()}, ""
        except UnusableImageError as error:
            bad = next(kind for kind, picture in opened.items() if picture.failed)
            return {}, f"its {bad} partner {own[bad]} is unusable: {error}"
        finally:
            pictures.done()

    def _made(
        self,
        waiting: Sequence[tuple[Item, PlannedSample, Mapping[Need, Pixels]]],
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
    ) -> Iterator[list[Item]]:
        start = 0
        while start < len(waiting):
            lot = waiting[start : start + self._size]
            loaded = [
                {kind: torch.from_numpy(pixels).to(self._device) for kind, pixels in read.items()} for _, _, read in lot
            ]
            request = self._requested([sample for _, sample, _ in lot], loaded)
            began = self._clock()
            try:
                images = self._sample(request)
            except Exception as error:
                if not is_no_room(error):
                    raise
                if len(lot) == 1:
                    raise self._no_room(f"there is no room to make even one sample: {error}") from error
                self._size = max(1, len(lot) // 2)
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            finally:
                self.seconds["sample"] += self._clock() - began
            start += len(lot)
            items = []
            for (item, sample, _), partners, image in zip(lot, loaded, images, strict=True):
                try:
                    pixels = self._pixels(image)
                except UnusableImageError as error:
                    skip(item.path, str(error))
                    advance(1)
                    continue
                self._keep(sample, pixels)
                loaded_of: dict[Role, Tensor] = {"image": pixels}
                loaded_of |= {kind: partners[kind] for kind in _PICTURE_KINDS if kind in partners}
                items.append(replace(item, loaded=loaded_of))
            if items:
                yield items

    def _requested(self, samples: Sequence[PlannedSample], loaded: Sequence[Mapping[Need, Tensor]]) -> SampleRequest:
        needs: Collection[Need] = self._sampler.spec.needs

        def partners(kind: Need) -> tuple[Tensor, ...]:
            return tuple(each[kind].permute(2, 0, 1) for each in loaded) if kind in needs else ()

        return SampleRequest(
            names=tuple(sample.name for sample in samples),
            seeds=tuple(sample.seed for sample in samples),
            device=str(self._device),
            content=partners("content"),
            style=partners("style"),
            prompts=tuple(sample.pair.prompt for sample in samples) if "prompt" in needs else (),
        )

    def _sample(self, request: SampleRequest) -> Sequence[Tensor]:
        devices = [self._device] if self._device.type == "cuda" else []
        with undisturbed(), torch.no_grad(), torch.random.fork_rng(devices):
            # For a sampler that draws from the common generator: at least the same at every step.
            torch.manual_seed(request.seeds[0])
            images = self._sampler.sample(request)
        if not isinstance(images, Sequence | Tensor) or len(images) != len(request):
            found = len(images) if hasattr(images, "__len__") else type(images).__name__
            raise InputError(f"sampler {self.sampling.use!r} was asked for {len(request)} samples and gave {found}")
        return list(images)

    def _pixels(self, image: object) -> Tensor:
        """uint8 (H, W, 3) on the device, rounded as torchvision's save_image does: what a PNG of it would hold."""
        use = self.sampling.use
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):  # noqa: PLR2004 - C, H, W
            found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"sampler {use!r} gave {found}; a sample is a tensor (3, H, W) or (1, H, W)")
        _, height, width = image.shape
        if not 0 < height * width <= self._max_pixels:
            raise InputError(f"sampler {use!r} gave {height} x {width} pixels; worker.max_pixels is {self._max_pixels}")
        image = image.detach().to(self._device)
        if image.is_floating_point():
            least, most = (float(bound) for bound in image.aminmax())
            if not (math.isfinite(least) and math.isfinite(most)):
                self.broken += 1
                raise UnusableImageError("the sample is not finite: it holds NaN or infinity")
            self.least, self.most = min(self.least, least), max(self.most, most)
            image = image.float().mul(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
        elif image.dtype != torch.uint8:
            raise InputError(f"sampler {use!r} gave {image.dtype}; a sample is floating point in 0..1, or uint8")
        return image.expand(3, height, width).permute(1, 2, 0)

    def _keep(self, sample: PlannedSample, pixels: Tensor) -> None:
        """Save one of the first samples of the plan for people to look at. What cannot be saved costs no score."""
        first = self.plan.samples[: self.sampling.keep]
        if not self.sampling.kept or sample not in first:
            return
        path = os.path.join(self.sampling.kept, f"{sample.name}.png")
        try:
            os.makedirs(self.sampling.kept, exist_ok=True)
            Image.fromarray(pixels.cpu().numpy()).save(path, format="PNG")
        except OSError as error:
            self._log("warning", "sample not kept", path=one_line(path), reason=error.strerror or str(error))
        else:
            self.kept.append(KeptSample(name=sample.name, path=path))

    def _no_room(self, reason: str) -> Exception:
        """The training job shares the GPU and may need less of it later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return TemporaryError(reason) if self._request.patient else InputError(reason)
