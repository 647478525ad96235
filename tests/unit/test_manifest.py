"""manifest.jsonl: who belongs to whom, in words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from metricwatch.errors import InputError
from metricwatch.worker import manifest
from metricwatch.worker.manifest import read_manifest


def write(folder: Path, *lines: object) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    found = read_manifest(
        write(tmp_path, {"image": "a.png", "content": "../c/1.jpg", "style": "/s/x.png", "prompt": "a cat", "seed": 7})
    )
    entry = found.find("a.png")
    assert entry.content == str(tmp_path.parent / "c" / "1.jpg")
    assert entry.style == "/s/x.png"
    assert entry.prompt == "a cat"


def test_what_unicode_calls_the_end_of_a_line_may_stand_in_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"image": f"{n}.png", "prompt": "a\u2028b\u0085c\x0c"}, ensure_ascii=False) for n in range(2)]
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert read_manifest(str(path)).find("1.png").prompt == "a\u2028b\u0085c\x0c"


def test_an_image_is_found_by_name_or_by_stem(tmp_path: Path) -> None:
    found = read_manifest(
        write(tmp_path, {"image": "a.png", "prompt": "A"}, "", {"image": "out/b", "prompt": "B"}, {"image": "c.d"})
    )
    assert found.find("a.png").prompt == "A"
    assert found.find("b.jpg").prompt == "B"
    assert found.find("a.jpg") is None
    assert found.find("c.d").prompt is None
    assert found.has("prompt")
    assert not found.has("content")


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
        ("[" * 90_000, "not a JSON object on one line"),
        ('{"image": "a.png", "x": "' + "y" * 100_000 + '"}', "over 100000 characters on one line"),
        ('{"image": "a.png", "image": "b.png"}', "'image' is given twice"),
        ('{"image": "a.png", "seed": ' + "1" * 5000 + "}", "not a JSON object on one line"),
        ('"image"', "a str instead of a JSON object"),
        ({"image": ["a.png"]}, "'image' must be a string, not list"),
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


def test_a_file_of_endless_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MOST_LINES", 3)
    lines = [{"image": f"{number}.png"} for number in range(4)]
    assert read_manifest(write(tmp_path, *lines[:3])).find("2.png")
    with pytest.raises(InputError, match=r"manifest.jsonl:4: over 3 images"):
        read_manifest(write(tmp_path, *lines))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        read_manifest(str(tmp_path / "manifest.jsonl"))
