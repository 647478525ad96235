"""The contract that every sampler keeps, as a test class for plugin authors.

class TestMySampler(SamplerContract):
    def make(self) -> Sampler: return MySampler(MySampler.Options(size=32))

    def checkpoint(self, folder: Path) -> Checkpoint: ...          # writes a small one below the folder
    def other_checkpoint(self, folder: Path) -> Checkpoint: ...    # the same model with other weights
    def foreign_checkpoint(self, folder: Path) -> Checkpoint: ...  # of a model that the sampler cannot use

Needs pytest; for telling failures put pytest.register_assert_rewrite("metricwatch.testing") into conftest.py.
"""

# ruff: noqa: S101 - assertions are what this module is for

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

import pytest

from metricwatch.api import Checkpoint, InputError, Need, Sampler, SampleRequest, SamplerSpec

if TYPE_CHECKING:
    from torch import Tensor

# What of a picture must lie in the range 0..1, and how many letters are short.
_MOSTLY = 0.75
_SHORT = 200


class SamplerContract:
    """Subclass it, name it Test..., write make() and the three checkpoints, and pytest runs the contract.

    The checkpoints should be small, and the same at every call; each is written into an empty folder. tolerance is
    how many of 256 levels a pixel may differ by when the same samples are made in other portions.
    """

    tolerance: ClassVar[int] = 1
    device: ClassVar[str] = "cpu"

    def make(self) -> Sampler:
        """A new sampler, not open."""
        raise NotImplementedError

    def checkpoint(self, folder: Path) -> Checkpoint:
        """A small checkpoint that the sampler makes images of, none of them of one colour."""
        raise NotImplementedError

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        """A checkpoint of the same model with other weights."""
        raise NotImplementedError

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        """An undamaged checkpoint that open() must refuse: of another model."""
        raise NotImplementedError

    def request(self, count: int) -> SampleRequest:
        """A request for `count` samples, with what the sampler's spec needs. The same at every call."""
        import torch

        needs = self.make().spec.needs
        chance = torch.Generator().manual_seed(count)

        def pictures(wanted: Need) -> tuple[Tensor, ...]:
            if wanted not in needs:
                return ()
            made = (torch.randint(256, (3, 48, 64), generator=chance, dtype=torch.uint8) for _ in range(count))
            return tuple(picture.to(self.device) for picture in made)

        return SampleRequest(
            names=tuple(f"{index:03d}" for index in range(count)),
            seeds=tuple(range(100, 100 + count)),
            device=self.device,
            content=pictures("content"),
            style=pictures("style"),
            prompts=tuple(f"a photo of {index + 2} apples" for index in range(count)) if "prompt" in needs else (),
        )

    # --- the contract ----------------------------------------------------------------------------------

    def test_the_spec_and_the_options_can_be_read(self) -> None:
        sampler = self.make()
        assert isinstance(sampler.spec, SamplerSpec)
        assert set(sampler.spec.needs) <= set(get_args(Need)) - {"reference"}
        if sampler.Options is not None:
            assert dataclasses.is_dataclass(sampler.Options)
            assert vars(sampler.Options)["__dataclass_params__"].frozen, "options are frozen"
            own = {item.name for item in dataclasses.fields(sampler.Options)}
            assert not own & {"use", "samples", "seed", "keep", "batch_size"}, "these keys are the framework's"

    def test_importing_its_module_does_not_import_torch(self) -> None:
        code = (
            f"import sys, {type(self.make()).__module__}\n"
            "heavy = {'torch', 'torchvision', 'transformers', 'diffusers', 'safetensors', 'scipy'} & set(sys.modules)\n"
            "sys.exit(' '.join(sorted(heavy)) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"importing the sampler imports {done.stderr.strip()}"

    def test_each_name_gets_one_picture(self, tmp_path: Path) -> None:
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        for count in (1, 3):
            images = self._sample(sampler, self.request(count))
            assert len(images) == count
            for image in images:
                channels, *sides = image.shape
                assert (channels in {1, 3}, len(sides)) == (True, 2), f"a picture is (3 or 1, H, W), not {image.shape}"
                assert min(sides) > 0
                assert image.is_floating_point() or str(image.dtype) == "torch.uint8"
        sampler.close()

    def test_floating_point_pictures_lie_between_0_and_1(self, tmp_path: Path) -> None:
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        for image in self._sample(sampler, self.request(2)):
            levels = image.detach().cpu().double()
            assert bool(levels.isfinite().all())
            assert float(levels.std()) > 0, "the picture is of one colour"
            if image.is_floating_point():
                # Some overshoot is common, and clamped. The ranges -1..1 and 0..255 are mistakes.
                inside = float((levels.clamp(0, 1) == levels).double().mean())
                assert inside >= _MOSTLY, f"only {inside:.0%} of the values lie in 0..1"
        sampler.close()

    def test_the_same_seeds_give_the_same_pictures(self, tmp_path: Path) -> None:
        import torch

        checkpoint = self.checkpoint(_folder(tmp_path))
        request = self.request(2)
        first = self._open(checkpoint)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            expected = self._sample(first, request)
            torch.manual_seed(2)
            self._same(expected, self._sample(first, request), "sampling again changes the pictures")
            first.close()
            torch.manual_seed(3)
            second = self._open(checkpoint)
            self._same(expected, self._sample(second, request), "another instance gives other pictures")
        second.close()

    def test_portions_do_not_matter(self, tmp_path: Path) -> None:
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        request = self.request(4)
        together = self._sample(sampler, request)
        singly = [self._sample(sampler, _part(request, [index]))[0] for index in range(4)]
        backwards = self._sample(sampler, _part(request, [3, 2, 1, 0]))[::-1]
        self._same(together, singly, "one by one they are other pictures", self.tolerance)
        self._same(together, backwards, "in another order they are other pictures", self.tolerance)
        sampler.close()

    def test_the_seed_matters_just_where_the_spec_says_so(self, tmp_path: Path) -> None:
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        request = self.request(1)
        reseeded = dataclasses.replace(request, seeds=(request.seeds[0] + 1,))
        before, after = self._sample(sampler, request), self._sample(sampler, reseeded)
        if sampler.spec.random:
            assert self._distance(before, after) > 0, "the spec says random, and another seed gives the same picture"
        else:
            self._same(before, after, "the spec says not random, and another seed gives another picture")
        sampler.close()

    def test_a_request_is_left_as_it_was(self, tmp_path: Path) -> None:
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        request = self.request(2)
        pictures = (*request.content, *request.style)
        before = [picture.clone() for picture in pictures]
        self._sample(sampler, request)
        assert all(bool((old == new).all()) for old, new in zip(before, pictures, strict=True))
        sampler.close()

    def test_another_checkpoint_gives_other_pictures(self, tmp_path: Path) -> None:
        request = self.request(2)
        fresh = self._open(self.other_checkpoint(_folder(tmp_path)))
        expected = self._sample(fresh, request)
        fresh.close()
        sampler = self._open(self.checkpoint(_folder(tmp_path)))
        assert self._distance(self._sample(sampler, request), expected) > self.tolerance
        sampler.close()
        sampler.open(self.other_checkpoint(_folder(tmp_path)), self.device)
        self._same(expected, self._sample(sampler, request), "the checkpoint before this one still shows")
        sampler.close()

    def test_closing_twice_and_opening_again_is_fine(self, tmp_path: Path) -> None:
        checkpoint = self.checkpoint(_folder(tmp_path))
        self.make().close()
        sampler = self._open(checkpoint)
        request = self.request(2)
        expected = self._sample(sampler, request)
        sampler.close()
        sampler.close()
        sampler.open(checkpoint, self.device)
        self._same(expected, self._sample(sampler, request), "opened again it gives other pictures")
        sampler.close()

    def test_a_checkpoint_of_another_model_is_refused_by_its_name(self, tmp_path: Path) -> None:
        self._refused(self.foreign_checkpoint(_folder(tmp_path)), tmp_path)

    @pytest.mark.parametrize("kept", [0.0, 0.6], ids=["emptied", "cut short"])
    def test_a_damaged_checkpoint_is_refused_by_its_name(self, tmp_path: Path, kept: float) -> None:
        whole = self.checkpoint(_folder(tmp_path))
        place = _folder(tmp_path) / Path(whole.path).name
        copy: Callable[[str, Path], object] = shutil.copytree if Path(whole.path).is_dir() else shutil.copyfile
        copy(whole.path, place)
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        with largest.open("r+b") as stream:
            stream.truncate(int(kept * largest.stat().st_size))
        self._refused(dataclasses.replace(whole, path=str(place)), tmp_path)

    def test_its_identity_is_short_and_stays(self, tmp_path: Path) -> None:
        checkpoint = self.checkpoint(_folder(tmp_path))
        first, second = self._open(checkpoint), self._open(checkpoint)
        assert isinstance(first.identity(), str)
        assert len(first.identity()) <= _SHORT
        assert first.identity() == second.identity()
        first.close()
        second.close()

    # --- how it is done --------------------------------------------------------------------------------

    def _open(self, checkpoint: Checkpoint) -> Sampler:
        sampler = self.make()
        sampler.open(checkpoint, self.device)
        return sampler

    def _sample(self, sampler: Sampler, request: SampleRequest) -> list[Tensor]:
        import torch

        with torch.no_grad():
            return list(sampler.sample(request))

    def _refused(self, checkpoint: Checkpoint, folder: Path) -> None:
        """The checkpoint cannot be opened, the error says which one it was, and a good one opens afterwards."""
        sampler = self.make()
        with pytest.raises(InputError) as raised:
            sampler.open(checkpoint, self.device)
        name = checkpoint.name or Path(checkpoint.path).name
        assert name in str(raised.value), f"the error does not name {name}: {raised.value}"
        sampler.close()
        sampler.open(self.checkpoint(_folder(folder)), self.device)
        assert len(self._sample(sampler, self.request(1))) == 1
        sampler.close()

    def _distance(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> int:
        """The largest difference of a pixel, in levels of 256; 256 where the shapes differ."""
        if [image.shape for image in left] != [image.shape for image in right]:
            return 256
        return max(int((_levels(one) - _levels(two)).abs().max()) for one, two in zip(left, right, strict=True))

    def _same(self, expected: Sequence[Tensor], found: Sequence[Tensor], trouble: str, tolerance: int = 0) -> None:
        assert len(found) == len(expected)
        distance = self._distance(expected, found)
        assert distance <= tolerance, f"{trouble}: by up to {distance} of 256 levels, {tolerance} are allowed"


def _folder(below: Path) -> Path:
    """A new empty folder."""
    folder = below / f"checkpoint-{sum(1 for _ in below.iterdir())}"
    folder.mkdir()
    return folder


def _part(request: SampleRequest, indices: Sequence[int]) -> SampleRequest:
    """Some of the samples of a request, in this order."""
    return dataclasses.replace(
        request,
        names=tuple(request.names[index] for index in indices),
        seeds=tuple(request.seeds[index] for index in indices),
        content=tuple(request.content[index] for index in indices if request.content),
        style=tuple(request.style[index] for index in indices if request.style),
        prompts=tuple(request.prompts[index] for index in indices if request.prompts),
    )


def _levels(image: Tensor) -> Tensor:
    """int16, as saving it in 8 bits would round it."""
    import torch

    whole = image.detach().cpu()
    if whole.is_floating_point():
        whole = (whole.float().nan_to_num().clamp(0, 1) * 255).round()
    return whole.to(torch.int16)
