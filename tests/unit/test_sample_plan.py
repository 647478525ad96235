"""Which samples are made: the same names, seeds and partners at every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from metricwatch.api import SamplerSpec
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate, Sampling
from metricwatch.worker.sample_plan import SamplePlan

BOTH = SamplerSpec(needs=frozenset({"content", "style"}), random=False)


def folder(path: Path, *stems: str) -> str:
    path.mkdir()
    for stem in stems:
        Image.new("RGB", (8, 8)).save(path / f"{stem}.png")
    return str(path)


def plan(spec: SamplerSpec | None = None, *, samples: int | None = None, seed: int = 0, **request: str) -> SamplePlan:
    sampling = Sampling(use="painter", samples=samples, seed=seed)
    return SamplePlan(Evaluate(job=1, path="x.pt", sampling=sampling, **request), spec or SamplerSpec())


def pairs(of: SamplePlan) -> list[tuple[str, ...]]:
    return [tuple(Path(path).stem for _, path in sorted(each.pair.partners.items())) for each in of.samples]


def test_without_partners_64_samples_are_made_with_one_seed_after_the_other() -> None:
    samples = plan(seed=7).samples

    assert [sample.seed for sample in samples] == list(range(7, 71))
    assert [sample.name for sample in samples] == [f"{number:02}" for number in range(64)]


def test_one_prompt_for_all_does_not_make_it_one_sample() -> None:
    made = plan(SamplerSpec(needs=frozenset({"prompt"})), prompt=" a cat ")

    assert len(made.samples) == 64
    assert {sample.pair.prompt for sample in made.samples} == {"a cat"}


def test_content_and_style_of_the_same_stem_belong_together(tmp_path: Path) -> None:
    made = plan(
        BOTH,
        content=folder(tmp_path / "content", "a", "b", "c"),
        style=folder(tmp_path / "style", "b", "c", "d"),
    )

    assert pairs(made) == [("b", "b"), ("c", "c")]
    assert [sample.name for sample in made.samples] == ["b", "c"]


def test_without_a_common_stem_every_content_meets_every_style_different_ones_first(tmp_path: Path) -> None:
    content, style = folder(tmp_path / "content", "a", "b", "c"), folder(tmp_path / "style", "x", "y")

    made = plan(BOTH, content=content, style=style)
    few = plan(BOTH, samples=2, content=content, style=style)

    assert pairs(made) == [("a", "x"), ("b", "y"), ("c", "x"), ("a", "y"), ("b", "x"), ("c", "y")]
    assert [sample.name for sample in made.samples][:2] == ["a_x", "b_y"]
    assert pairs(few) == [("a", "x"), ("b", "y")]


def test_the_manifest_names_pairs_and_prompts_line_by_line(tmp_path: Path) -> None:
    content = folder(tmp_path / "content", "a", "b")
    lines = [
        {"image": "one.png", "content": f"{content}/b.png", "prompt": "a boat"},
        {"image": "two", "content": f"{content}/a.png"},
    ]
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    made = plan(manifest=str(manifest), prompt="anything")

    assert [(sample.name, sample.pair.prompt) for sample in made.samples] == [("one", "a boat"), ("two", "anything")]
    assert pairs(made) == [("b",), ("a",)]


def test_more_samples_than_pairs_take_the_pairs_again_with_other_seeds(tmp_path: Path) -> None:
    content = folder(tmp_path / "content", "a", "b")

    made = plan(SamplerSpec(needs=frozenset({"content"})), samples=5, content=content)

    assert [(sample.name, sample.seed) for sample in made.samples] == [
        ("a", 0),
        ("b", 1),
        ("a.2", 2),
        ("b.2", 3),
        ("a.3", 4),
    ]


def test_a_sampler_without_chance_makes_each_pair_once(tmp_path: Path) -> None:
    content, style = folder(tmp_path / "content", "a", "b"), folder(tmp_path / "style", "a", "b")

    assert len(plan(BOTH, samples=50, content=content, style=style).samples) == 2


def test_names_are_fit_for_files_and_different(tmp_path: Path) -> None:
    made = plan(content=folder(tmp_path / "content", "my cat", "my_cat", "_hidden"))

    names = [sample.name for sample in made.samples]
    assert names == ["hidden", "my_cat", "my_cat~"]


def test_a_partner_that_the_sampler_needs_and_nobody_named_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"sampler 'painter' makes samples from a style, and there is none; set pairs\.style"
    ):
        plan(BOTH, content=folder(tmp_path / "content", "a"))


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in the content directory"):
        plan(content=folder(tmp_path / "content"))


def test_metrics_find_the_partners_that_they_ask_for_and_no_others(tmp_path: Path) -> None:
    made = plan(content=folder(tmp_path / "content", "a"), style=folder(tmp_path / "style", "a"))

    (item,) = made.items(["content"])

    assert set(item.partners) == {"content"}
    assert item.made
    assert made.open("style") == ""
    assert made.open("prompt").endswith("set pairs.prompt or pairs.manifest")
