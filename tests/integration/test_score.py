"""metricwatch score: one directory, the same worker as the daemon's, a document for machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.job import QUIET

Score = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def score(tmp_path) -> Score:
    """Run the command with a cache of its own and no weights but those that are named."""

    def run(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "metricwatch", "score", *map(str, arguments)],
            env={
                **os.environ,
                **QUIET,
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "TORCH_HOME": str(tmp_path / "no-weights-here"),
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


def test_the_document_has_scores_provenance_and_what_was_skipped(score, photos, blurred_photos, tmp_path):
    samples = tmp_path / "samples"
    samples.mkdir()
    for file in sorted(blurred_photos.glob("*.png")):
        (samples / file.name).write_bytes(file.read_bytes())
    (samples / "broken.png").write_bytes(b"no picture")
    done = score(
        samples, "--reference", photos, "--content", photos, "--metrics", "fd_efficientnet_lite0,ssim", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    distance, similarity = document["scores"]
    assert (distance["key"], distance["images"]) == ("fd_efficientnet_lite0", 24)
    assert distance["value"] > 1
    assert distance["stderr"] > 0
    assert 0.3 < similarity["value"] < 1
    assert distance["provenance"]["protocol"] == "imagenet-224"
    assert len(distance["provenance"]["extractor_digest"]) >= 8
    assert document["provenance"]["precision"] == "exact"
    assert {Path(item["path"]).name for item in document["skipped"]} == {"broken.png"}
    assert "broken.png" in done.stderr


def test_identical_sets_score_zero_and_one_in_a_table(score, photos):
    done = score(photos, "--reference", photos, "--content", photos, "--metrics", "fd_efficientnet_lite0,ssim")
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert header[:2] == ["METRIC", "VALUE"]
    assert [row[0] for row in rows] == ["fd_efficientnet_lite0", "ssim"]
    assert float(rows[0][1]) == pytest.approx(0, abs=1e-6)
    assert float(rows[1][1]) == 1
    assert "\x1b" not in done.stdout


def test_fid_takes_weights_by_path_and_statistics_by_file(score, photos, blurred_photos, inception_weights, tmp_path):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(2048, 2048)) / 50
    np.savez(tmp_path / "stats.npz", mu=rng.normal(size=2048), sigma=factor @ factor.T)
    done = score(
        *(blurred_photos, "--reference", tmp_path / "stats.npz", "--json"),
        *("--weights", f"inception-v3={inception_weights}"),
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)["scores"][0]
    assert value["key"] == "fid"
    assert value["value"] > 0


def test_both_precisions_side_by_side_show_what_fast_costs(score, photos, blurred_photos, inception_weights):
    done = score(
        *(blurred_photos, "--reference", photos, "--metrics", "fid", "--composite", "half=0.5*fid"),
        *("--weights", f"inception-v3={inception_weights}", "--precision", "both", "--json"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    exact, fast = (document[precision]["scores"] for precision in ("exact", "fast"))
    assert [score["provenance"]["precision"] for score in (exact[0], fast[0])] == ["exact", "fast"]
    effect, half = document["effect"]
    assert effect["key"] == "fid"
    assert effect["difference"] == pytest.approx(fast[0]["value"] - exact[0]["value"])
    assert effect["relative"] == pytest.approx(effect["difference"] / exact[0]["value"])
    assert abs(effect["relative"]) < 0.05
    assert half["difference"] == pytest.approx(effect["difference"] / 2)


def test_missing_weights_name_the_file_how_to_get_it_and_what_works_offline(score, photos):
    done = score(photos, "--reference", photos, "--json")
    assert done.returncode == 1
    assert "pt_inception-2015" in json.loads(done.stdout)["error"]
    assert "pt_inception-2015-12-05-6726825d.pth" in done.stderr
    assert "https://" in done.stderr
    assert "fd_efficientnet_lite0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_before_the_start_is_a_document_as_well(score, tmp_path):
    done = score(tmp_path / "gone", "--reference", tmp_path, "--json")
    assert done.returncode == 1
    assert "no such file or directory (SAMPLES)" in json.loads(done.stdout)["error"]


def test_one_image_is_too_few_for_a_covariance_and_says_so(score, photos, tmp_path):
    single = tmp_path / "single"
    single.mkdir()
    Image.new("RGB", (64, 64), "red").save(single / "a.png")
    done = score(single, "--reference", photos, "--metrics", "fd_efficientnet_lite0", "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)["scores"][0]
    assert (answer["value"], answer["state"]) == (None, "too_few_images")
    assert "2 images" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["missing", "--reference", "PHOTOS"], 1, "missing: no such file or directory"),
        (["PHOTOS", "--reference", "nowhere"], 1, "nowhere: no such file or directory (--reference)"),
        (["EMPTY", "--reference", "PHOTOS", "--metrics", "fd_efficientnet_lite0"], 1, "it is empty"),
        (["PHOTOS", "--reference", "EMPTY", "--metrics", "fd_efficientnet_lite0"], 1, "no images in the reference"),
        (["PHOTOS", "--metrics", "fdi"], 2, "did you mean 'fid'?"),
        (["PHOTOS"], 2, "give --reference"),
        (["PHOTOS", "--reference", "PHOTOS", "--weights", "x"], 2, "EXTRACTOR=FILE"),
        (["PHOTOS", "--content", "PHOTOS", "--device", "cuda:77"], 1, "cuda:77"),
        (["PHOTOS", "--content", "PHOTOS", "--precision", "sloppy"], 2, "must be exact"),
    ],
)
def test_bad_input_is_told_plainly(score, photos, tmp_path, arguments, status, said):
    (tmp_path / "empty").mkdir()
    named = {"PHOTOS": str(photos), "EMPTY": str(tmp_path / "empty")}
    done = score(*(named.get(argument, argument) for argument in arguments))
    assert done.returncode == status, done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
