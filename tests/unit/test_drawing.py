"""Pictures of curves: what they show, that any curve can be drawn, and the process that draws them."""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from metricwatch.drawing import process
from metricwatch.drawing.curve import Curve, Span
from metricwatch.drawing.process import draw
from metricwatch.drawing.rendering import render
from metricwatch.drawing.thin import thinned, thinned_steps
from metricwatch.drawing.wire import decode_request, encode_request
from metricwatch.errors import TemporaryError
from metricwatch.records import WindowPoint

# As the legend and the text of other programs name them.
VERMILION, ORANGE, SKY, BLUE = (213, 94, 0), (230, 159, 0), (86, 180, 233), (0, 114, 178)


def point(step, value, stderr=None):
    return WindowPoint(step=step, value=value, stderr=stderr)


POINTS = tuple(point(1000 * n, 30 + math.sin(n), 0.3) for n in range(1, 21))
CURVE = Curve(title="fid of night", key="fid", points=POINTS)


def span(fired, until=None, severity="critical", window=()):
    return Span(rule="fid-moved", severity=severity, direction="worse", fired=fired, until=until, window=window)


def pixels(curve):
    return Image.open(io.BytesIO(render(curve, "png"))).convert("RGB")


def has_near(image, colour, tolerance=6):
    return any(
        all(abs(a - b) <= tolerance for a, b in zip(found, colour, strict=True))
        for _, found in image.getcolors(1 << 20)
    )


def words(curve) -> str:
    """The texts of the picture: matplotlib leaves each as a comment beside its outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", render(curve, "svg").decode()))


# --- what is shown -------------------------------------------------------------------------------------------


def test_a_png_has_the_size_that_was_promised_and_the_curves_colour():
    image = pixels(CURVE)
    assert image.size == (640, 320)
    assert has_near(image, BLUE)
    assert not has_near(image, VERMILION)


@pytest.mark.parametrize(("severity", "colour"), [("critical", VERMILION), ("warning", ORANGE), ("info", SKY)])
def test_severities_differ_by_colour_hatching_and_name(severity, colour):
    curve = replace(CURVE, spans=(span(5000, 9000, severity), span(15000, None, severity)))
    assert has_near(pixels(curve), colour, 40)
    text = words(curve)
    assert f"{severity}, firing" in text
    assert f"{severity}, resolved" in text
    # Without colours: the pictures differ as well.
    others = [replace(each, severity="critical" if severity != "critical" else "info") for each in curve.spans]
    grey = [pixels(each).convert("1").tobytes() for each in (curve, replace(curve, spans=tuple(others)))]
    assert grey[0] != grey[1]


def test_in_an_svg_the_hatching_is_not_as_faint_as_the_shade():
    svg = render(replace(CURVE, spans=(span(5000, 9000), span(15000))), "svg").decode()
    hatched = re.findall(r'style="(fill: url[^"]*)"', svg)
    assert len(hatched) >= 2
    assert not [style for style in hatched if "fill-opacity" in style]


def test_an_alert_that_is_over_ends_where_it_was_resolved_and_one_that_fires_at_the_edge():
    # In the background of a picture without hatching: a column is shaded where its uppermost free pixel is.
    def shaded(curve):
        image = pixels(curve)
        # The line below the title is inside the axes and free of the curve, which is far below the bound.
        row = [image.getpixel((x, 60)) for x in range(640)]
        return [x for x, colour in enumerate(row) if colour[0] - colour[2] > 12]

    flat = Curve(title="t", key="k", points=tuple(point(n, 1.0) for n in range(101)), bounds=(1.2,))
    over, fires = shaded(replace(flat, spans=(span(20, 40),))), shaded(replace(flat, spans=(span(60),)))
    assert 100 < min(over) < max(over) < 320
    assert max(over) < min(fires)
    assert max(fires) > 620


def test_the_window_of_an_alert_is_ringed_and_said_in_the_legend():
    window = POINTS[2:7]
    assert "window of the alert" in words(replace(CURVE, spans=(span(7000, None, window=window),)))
    assert "window of the alert" not in words(replace(CURVE, spans=(span(7000),)))
    # The ring is where the evaluation was when it was looked at, not where it is since it was rewritten.
    moved = (point(3000, 90.0),)
    assert "90" in words(replace(CURVE, spans=(span(7000, None, window=moved),)))


def test_standard_errors_make_a_band_and_values_that_are_missing_make_crosses():
    assert "± 2 standard errors" in words(CURVE)
    bare = replace(CURVE, points=tuple(replace(each, stderr=None) for each in POINTS))
    assert "standard errors" not in words(bare)
    assert "no value" not in words(CURVE)
    assert "no value" in words(replace(CURVE, gaps=(5500, 30000)))


def test_a_bound_near_the_curve_is_a_line_and_one_far_away_is_named_at_the_edge():
    near, far = words(replace(CURVE, bounds=(33.0,))), words(replace(CURVE, bounds=(1000.0, -500.0)))
    assert "bound" not in near
    assert "33" in near
    assert "bound 1000 ↑" in far
    assert "bound -500 ↓" in far
    assert "1,000" not in far


def test_a_compact_curve_is_small_and_has_no_legend():
    compact = replace(CURVE, compact=True, spans=(span(5000),))
    assert pixels(compact).size == (400, 200)
    assert has_near(pixels(compact), BLUE)
    assert has_near(pixels(compact), VERMILION, 40)
    assert "fid of night" in words(compact)
    assert "standard errors" in words(replace(compact, compact=False))
    assert "standard errors" not in words(compact)


@pytest.mark.parametrize("name", ["$x^2$ 100% \\frac", "a" * 500, "画像\n\x00\ud800 run", "<b>&amp; -->", ""])
def test_any_name_is_text_and_fits(name):
    curve = replace(CURVE, title=name, key=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(curve).size == (640, 320)
        ET.fromstring(render(curve, "svg"))


def test_a_dollar_is_drawn_as_one_and_a_long_name_is_cut():
    # In a formula letters are slanted.
    assert b"Oblique" not in render(replace(CURVE, title="fid of $night$"), "svg")
    assert "x" * 63 + "…" in words(replace(CURVE, title="x" * 500))


# --- any curve -----------------------------------------------------------------------------------------------

AWKWARD = {
    "no points": (),
    "one point": (point(5, 1.0, 0.1),),
    "no finite point": (point(1, math.nan), point(2, math.inf)),
    "the greatest values": (point(1, 1.7e308, 1.7e308), point(2, -1.7e308, math.inf)),
    "the smallest values": (point(1, 5e-324, math.nan), point(2, -5e-324)),
    "zeros": (point(0, 0.0, 0.0), point(2, 0.0, 0.0)),
    "all the same": tuple(point(n, 7.25) for n in range(9)),
    "the highest steps": (point(2**62, 1.0), point(2**62 + 1, 2.0)),
    "steps far apart": tuple(point(n * 10**12, float(n), 1.0) for n in range(40)),
    "negative steps": (point(-5, 1.0), point(5, 2.0)),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_any_curve_can_be_drawn(name):
    points = AWKWARD[name]
    steps = [each.step for each in points] or [0]
    curve = Curve(
        title="t",
        key="k",
        points=points,
        spans=(span(steps[0], window=points), span(steps[-1], steps[-1])),
        bounds=(0.0, 1.7e308, math.nan, -math.inf),
        gaps=(steps[-1], steps[-1] + 1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (curve, replace(curve, spans=(), bounds=(), gaps=())):
            assert pixels(each).size == (640, 320)
            assert b"nan" not in render(each, "svg").lower()


def test_ten_thousand_points_are_drawn_with_their_one_peak():
    source = random.Random(4)
    points = [point(step, source.gauss(0, 1)) for step in range(10_000)]
    points[7777] = point(7777, 50.0)
    start = time.perf_counter()
    long = render(replace(CURVE, points=tuple(points)), "svg")
    assert time.perf_counter() - start < 5
    assert len(long) < 400_000
    assert "45" in words(replace(CURVE, points=tuple(points)))


def test_thinning_keeps_ends_and_extremes_and_the_order():
    source = random.Random(1)
    points = [point(step * step, source.gauss(0, 1)) for step in range(5000)]
    points[4321] = point(4321**2, -99.0)
    points[100] = point(100**2, math.nan)
    kept = thinned(points, 400)
    assert 100 < len(kept) <= 400
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert min(kept, key=lambda each: each.value) == points[4321]
    assert max(each.value for each in kept) == max(each.value for each in points if each.step != 100**2)
    assert [each.step for each in kept] == sorted({each.step for each in kept})
    assert set(kept) <= set(points)
    assert thinned(points[:90], 400) == points[:90]


def test_thinning_points_that_share_a_step_stays_within_its_bound():
    assert len(thinned([point(3, float(n)) for n in range(1000)], 8)) <= 8


def test_steps_are_thinned_evenly():
    assert thinned_steps([1, 2], 2) == [1, 2]
    assert thinned_steps(range(100), 4) == [0, 25, 50, 75]


# --- the process ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    curves = [CURVE, replace(CURVE, spans=(span(4000, 6000, "info", POINTS[:3]),), gaps=(7,), title="\ud800")]
    return curves, draw(curves, "svg")


def test_the_process_draws_what_the_function_draws_in_order(drawn):
    curves, pictures = drawn
    assert pictures == [render(curve, "svg") for curve in curves]
    assert draw([]) == []


def test_the_same_curve_gives_the_same_bytes_without_a_date(drawn):
    curves, pictures = drawn
    assert draw(curves[:1], "png") == [render(CURVE, "png")] == [render(CURVE, "png")]
    assert b"date" not in pictures[0].lower()
    assert not Image.open(io.BytesIO(render(CURVE, "png"))).info.keys() & {"Software", "Creation Time"}


def test_a_request_comes_through_as_it_was(drawn):
    curves, _ = drawn
    assert decode_request(encode_request(curves, "svg", 9)) == (curves, "svg", 9)


def test_settings_and_modules_that_lie_about_do_not_matter(drawn, tmp_path, monkeypatch):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 30\ntext.usetex: True\nsvg.fonttype: none\n")
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    curves, pictures = drawn
    assert draw(curves[:1], "svg") == pictures[:1]


def test_a_home_that_cannot_be_written_does_not_matter(drawn, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    curves, pictures = drawn
    assert draw(curves[:1], "svg") == pictures[:1]
    # The index of fonts lasts until the next time.
    assert list(tmp_path.glob(f"metricwatch-{os.getuid()}/matplotlib/fontlist-*.json"))


def test_a_spare_folder_that_is_a_link_of_somebody_elses_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"metricwatch-{os.getuid()}").symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    assert process._cache_folder() is None


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """Another program in the place of the drawing process."""

    def instead(code: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\n{code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(process.sys, "executable", str(script))

    return instead


def test_one_that_hangs_is_killed_with_its_children(instead, tmp_path):
    instead(
        "import os, subprocess, time\n"
        f"child = subprocess.Popen(['sleep', '60'])\nopen({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)"
    )
    with pytest.raises(TemporaryError, match=r"no picture within 0\.5 s"):
        draw([CURVE], patience=timedelta(seconds=0.5))
    for pid in (tmp_path / "pids").read_text().split():
        end = time.monotonic() + 5
        while time.monotonic() < end and _alive(int(pid)):
            time.sleep(0.02)
        assert not _alive(int(pid))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('first\\nlast words')", "drawing: last words$"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("print('[')", "cut or foreign"),
        ("print('[1]')", "cut or foreign"),
        ("print('{}')", "cut or foreign"),
        ("print('[]')", "0 pictures for 1 drawings"),
    ],
)
def test_one_that_fails_says_why(instead, code, reason):
    instead(code)
    with pytest.raises(TemporaryError, match=reason):
        draw([CURVE])


def test_no_program_to_start_is_a_temporary_error(monkeypatch, tmp_path):
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(TemporaryError, match="cannot start a process: No such file"):
        draw([CURVE])


def test_one_that_nobody_waits_for_ends_itself():
    code = "import metricwatch.drawing.__main__ as m, metricwatch.drawing.rendering as f, time\nf.render = lambda *_: time.sleep(60)\nm.main()"
    request = encode_request([CURVE], "png", 1)
    done = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGALRM


def test_drawing_leaves_matplotlib_out_of_the_process_that_asks():
    code = (
        "import sys, json\n"
        "from metricwatch.drawing.curve import Curve\nfrom metricwatch.drawing.process import draw\n"
        "import metricwatch.drawing.page, metricwatch.export.stage\n"
        "draw([Curve(title='t', key='k', points=())])\n"
        "print(json.dumps([name for name in ('matplotlib', 'numpy', 'PIL', 'torch') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
