"""What may be typed after `metricwatch score`, and what is said when it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from metricwatch.cli import app
from metricwatch.cli.score import options


def refusal(*arguments: str) -> str:
    """What a usage error says, in one line."""
    done = CliRunner().invoke(app, ["score", ".", *arguments], env={"COLUMNS": "1000", "NO_COLOR": "1"})
    assert done.exit_code == 2, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give --reference (for fid), --content (for ssim) or --prompt (for clip_score), or name --metrics"),
        (["--metrics", "fidd"], "unknown metric 'fidd'; did you mean 'fid'?"),
        (["--metrics", ","], "--metrics names none"),
        (["--metrics", "fd_efficientnet_lite"], "did you mean 'fd_efficientnet_lite0'?"),
        (["--metrics", "fid", "--weights", "x"], "'x' is not of the form EXTRACTOR=FILE"),
        (["--metrics", "fid", "--weights", "inception=x"], "did you mean 'inception-v3'?"),
        (["--metrics", "fid", "--protocol", "inception-v3=cleen"], "did you mean 'clean'?"),
        (["--metrics", "fid", "--protocol", "clean"], "'clean' is not of the form EXTRACTOR=NAME"),
        (["--metrics", "fid", "--option", "fid.a=1"], "the metric 'fid' takes no options"),
        (["--metrics", "fid", "--option", "ssim.a=1"], "'ssim' is not asked for"),
        (["--metrics", "gram_style_loss", "--option", "normalise=hw"], "'normalise' is not of the form METRIC.KEY"),
        (
            ["--metrics", "gram_style_loss", "--option", "gram_style_loss.normalize=hw"],
            "unknown key; did you mean 'normalise'?",
        ),
        (["--metrics", "gram_style_loss", "--option", "gram_style_loss.normalise=[hw"], "cannot be read"),
        (["--metrics", "ssim", "--composite", "q"], "'q' is not of the form NAME=EXPRESSION"),
        (["--metrics", "ssim", "--composite", "q=1 - sim"], "did you mean 'ssim'?"),
        (["--metrics", "ssim", "--composite", "q=ssim.__class__"], "ssim.__class__"),
        (["--metrics", "ssim", "--composite", "q=ssim_foo"], "unknown name 'ssim_foo'"),
        (["--metrics", "ssim", "--composite", "q=ssim", "--composite", "q=2*ssim"], "'q' is given twice"),
        (["--metrics", "ssim", "--prompt", "\udcff"], "is not UTF-8 text"),
        (["--metrics", "ssim", "--composite", "q=p*ssim"], "uses p, the training's progress; give --p"),
        (["--metrics", "ssim", "--feature-cache", "lots"], "--feature-cache"),
        (["--metrics", "ssim", "--p", "1.5"], "--p"),
        (["--metrics", "ssim", "--precision", "sloppy"], "must be exact or fast or both, not 'sloppy'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_hint(arguments: list[str], complaint: str) -> None:
    assert complaint in refusal(*arguments)


def test_defaults_follow_what_was_given() -> None:
    assert options.metric_names(None, reference=True, content=False, prompt=False) == ("fid",)
    assert options.metric_names(None, reference=True, content=True, prompt=True) == ("fid", "ssim", "clip_score")
    assert options.metric_names(" kid, fid,kid", reference=True, content=False, prompt=False) == ("kid", "fid")


def test_options_reach_the_metric_in_their_own_types() -> None:
    found = options.metric_options(
        ['clip_style_score.contrast=["a photo", "a sketch"]', "clip_style_score.prompt=in oil"], ["clip_style_score"]
    )
    assert found == {"clip_style_score": {"contrast": ["a photo", "a sketch"], "prompt": "in oil"}}


def test_a_weights_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    from metricwatch.errors import InputError

    with pytest.raises(InputError, match="gone"):
        options.weights([f"inception-v3={tmp_path / 'gone'}"])


def test_a_composite_may_use_the_progress_that_is_given() -> None:
    found = options.composites(["q=p*ssim"], ("ssim",), p=0.5)
    assert found["q"].parsed.names == {"p", "ssim"}
    with pytest.raises(typer.BadParameter):
        options.composites(["q=p*ssim"], ("ssim",), p=None)
