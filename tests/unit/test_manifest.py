"""manifest.jsonl: who belongs to whom, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metricwatch.errors import InputError
from metricwatch.worker.manifest import read_manifest


def write(folder: Path, *lines: object) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path, {"image": "a.png", "content": "../c/1.jpg", "style": "/s/x.png", "prompt": "a cat", "seed": 7})
    )
    entry = manifest.find("a.png")
    assert entry.content == str(tmp_path.parent / "c" / "1.jpg")
    assert entry.style == "/s/x.png"
    assert entry.prompt == "a cat"


def test_what_unicode_calls_the_end_of_a_line_may_stand_in_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"image": f"{n}.png", "prompt": "a\u2028b\u0085c\x0c"}, ensure_ascii=False) for n in range(2)]
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert read_manifest(str(path)).find("1.png").prompt == "a\u2028b\u0085c\x0c"


def test_an_image_is_found_by_name_or_by_stem(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path, {"image": "a.png", "prompt": "A"}, "", {"image": "out/b", "prompt": "B"}, {"image": "c.d"})
    )
    assert manifest.find("a.png").prompt == "A"
    assert manifest.find("b.jpg").prompt == "B"
    assert manifest.find("a.jpg") is None
    assert manifest.find("c.d").prompt is None
    assert manifest.has("prompt")
    assert not manifest.has("content")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not a JSON object on one line"),
        ("[1]", "a list instead of a JSON object"),
        ({"content": "x.png"}, "names no 'image'"),
        ({"image": "a.png", "prompt": 3}, "'prompt' must be a string, not int"),
        ({"image": "good.png"}, "'good.png' has an entry already"),
        ({"image": "a.png", "content": "a\0b.png"}, "'content' holds a NUL"),
        ('{"image": "a.png", "prompt": "\\ud800"}', "'prompt' holds a NUL or half a character"),
        ("[" * 100_000, "not a JSON object on one line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, complaint: str) -> None:
    path = write(tmp_path, {"image": "good.png"}, line)
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert complaint in str(caught.value)


def test_a_file_that_is_no_text_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_manifest(str(tmp_path / "manifest.jsonl"))
    with pytest.raises(InputError, match="cannot read the manifest"):
        read_manifest(str(tmp_path / "none.jsonl"))
