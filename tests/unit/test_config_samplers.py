"""Watch entries with checkpoints: what a file may say of them, and what is told of one that says it wrongly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metricwatch.config import Config, load_config
from metricwatch.errors import ConfigError
from tests.support.samplers import install_painter

HEAD = "tracking: {uri: http://127.0.0.1:5000}\nmetrics: [ssim]\nwatch:\n"


@pytest.fixture(autouse=True)
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_painter(tmp_path / "site", monkeypatch)
    monkeypatch.delitem(sys.modules, "plugin_painter", raising=False)


def load(folder: Path, *entries: str) -> Config:
    file = folder / "metricwatch.yaml"
    file.write_text(HEAD + "".join(f"  - {entry}\n" for entry in entries))
    return load_config(file, environ={})


def refusal(folder: Path, entry: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, entry)
    return str(caught.value)


def test_checkpoints_come_with_a_sampler_its_options_and_defaults(tmp_path: Path) -> None:
    (entry,) = load(
        tmp_path,
        "{run: {name: a}, checkpoints: ckpt/*.pt, sampler: {use: painter, samples: 12, size: 40, random: true}}",
    ).watch

    assert entry.pattern == str(tmp_path / "ckpt/*.pt")
    assert entry.sampler is not None
    assert (entry.sampler.use, entry.sampler.samples, entry.sampler.seed, entry.sampler.keep) == ("painter", 12, 0, 4)
    assert entry.sampler.options == {"size": 40}  # a default that is written out is none
    assert (entry.backlog.policy, entry.backlog.most) == ("every", None)


def test_a_sampler_without_options_is_its_name(tmp_path: Path) -> None:
    (entry,) = load(tmp_path, "{run: {name: a}, checkpoints: ckpt/*.pt, sampler: painter}").watch

    assert entry.sampler is not None
    assert entry.sampler.use == "painter"


@pytest.mark.parametrize(
    ("written", "policy", "most"),
    [("latest", "latest", None), ("{policy: newest_first, most: 5}", "newest_first", 5), ("{most: 9}", "every", 9)],
)
def test_the_backlog_is_a_word_or_a_section(tmp_path: Path, written: str, policy: str, most: int | None) -> None:
    (entry,) = load(tmp_path, f"{{run: {{name: a}}, samples: out/*, backlog: {written}}}").watch

    assert (entry.backlog.policy, entry.backlog.most) == (policy, most)


def test_checkpoints_and_samples_of_one_run_are_different_sources(tmp_path: Path) -> None:
    (samples,) = load(tmp_path, "{run: {name: a}, samples: out/*}").watch
    (checkpoints,) = load(tmp_path, "{run: {name: a}, checkpoints: out/*, sampler: painter}").watch

    assert samples.source != checkpoints.source
    assert samples.target.key == checkpoints.target.key


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{run: {name: a}}", "watch[0]: has no samples; write where the job saves them"),
        (
            "{run: {name: a}, samples: out/*, checkpoints: c/*, sampler: painter}",
            "watch[0]: has both samples and checkpoints",
        ),
        ("{run: {name: a}, checkpoints: c/*}", "watch[0]: has checkpoints and no sampler; write what makes images"),
        ("{run: {name: a}, samples: out/*, sampler: painter}", "watch[0]: has a sampler and no checkpoints"),
        (
            "{run: {name: a}, checkpoints: c/*, sampler: {use: panter}}",
            "watch[0].sampler.use: unknown sampler 'panter'; did you mean 'painter'?",
        ),
        (
            "{run: {name: a}, checkpoints: c/*, sampler: {use: painter, sise: 3}}",
            "watch[0].sampler.sise: unknown key; did you mean 'size'?",
        ),
        ("{run: {name: a}, checkpoints: c/*, sampler: {use: painter, size: big}}", "watch[0].sampler.size: must be"),
        (
            "{run: {name: a}, checkpoints: c/*, sampler: {use: painter, samples: 0}}",
            "watch[0].sampler.samples: must be",
        ),
        ("{run: {name: a}, checkpoints: c/*, sampler: {samples: 3}}", "watch[0].sampler.use: required"),
        (
            "{run: {name: a}, checkpoints: c/*, sampler: {use: painter, options: {}}}",
            "watch[0].sampler.options: unknown key",
        ),
        (
            "{run: {name: a}, checkpoints: c/*, sampler: {use: painter, needs: [content]}}",
            "watch[0].pairs: the sampler 'painter' makes samples from content; write pairs: {content: ...}",
        ),
        ("{run: {name: a}, samples: out/*, backlog: newest}", "watch[0].backlog: must be 'every'"),
        ("{run: {name: a}, samples: out/*, backlog: {most: 0}}", "watch[0].backlog.most: must be"),
        (
            "{run: {name: a}, checkpoints: 'c/{run}/*', sampler: painter}",
            "watch[0]: checkpoints has {run} and run has not",
        ),
    ],
)
def test_what_is_wrong_is_told_where_it_is(tmp_path: Path, entry: str, message: str) -> None:
    assert message in refusal(tmp_path, entry)


def test_partners_may_come_from_a_manifest(tmp_path: Path) -> None:
    load(
        tmp_path,
        "{run: {name: a}, checkpoints: c/*, pairs: {manifest: m.jsonl}, sampler: {use: painter, needs: [content, prompt]}}",
    )
