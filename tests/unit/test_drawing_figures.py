"""Figures of an evaluation: contact sheets, comparisons, radars, lookalikes, from any files and any names."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image, PngImagePlugin

from metricwatch.drawing.comparison import _coloured
from metricwatch.drawing.figures import Comparison, ContactSheet, Lookalikes, Radar, Spoke
from metricwatch.drawing.photographs import fitted, read_picture, shape
from metricwatch.drawing.process import draw
from metricwatch.drawing.radar import _apart, _runs
from metricwatch.drawing.rendering import _figure, render
from metricwatch.drawing.spokes import standing
from metricwatch.drawing.style import settings
from metricwatch.drawing.wire import decode_request, encode_request
from metricwatch.records import Compared, KeptSample, Lookalike, Neighbour
from tests.support.photos import write_crops

BLUE, ORANGE, VERMILION = (0, 114, 178), (230, 159, 0), (213, 94, 0)
# Different in each channel's second bit and above: the last one is not kept.
COLOURS = [(200, 30, 40), (40, 180, 60), (60, 80, 220), (240, 200, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """PNGs of one colour, red.png and 0.png to 3.png, and photographs 0000.png to 0015.png."""
    folder = write_crops(tmp_path_factory.mktemp("pictures"), 16, side=256)
    for place, colour in enumerate(COLOURS):
        Image.new("RGB", (64, 64), colour).save(folder / f"{place}.png")
    heat = np.zeros((64, 64), np.uint8)
    heat[:, 32:] = 255
    Image.fromarray(heat).save(folder / "heat.png")
    return folder


def sheet_of(folder, count):
    samples = tuple(KeptSample(name=f"sample-{n}", path=str(folder / f"{n % 4}.png")) for n in range(count))
    return ContactSheet(title="night at step 7,000", samples=samples)


def compared(folder, name="harbour", **changes):
    row = Compared(
        name=name,
        image=str(folder / "0.png"),
        content=str(folder / "1.png"),
        style=str(folder / "2.png"),
        heat=str(folder / "heat.png"),
        heat_mean=0.1234,
    )
    return replace(row, **changes)


def comparison_of(*rows):
    return Comparison(title="night at step 7,000", rows=rows, heat_of="lpips", heat_most=0.75)


def spoke(key, value, at_best=None, *, best=10.0, worst=50.0):
    return Spoke(key=key, value=value, best=best, worst=worst, higher_is_better=best > worst, at_best_step=at_best)


def radar_of(*spokes, **others):
    return Radar(**{"title": "night at step 7,000", "step": 7000, "spokes": spokes, **others})


def lookalikes_of(folder, *distances, rows=1, **others):
    nearest = tuple(
        Neighbour(name=f"monet-{n}.jpg", image=str(folder / f"{n % 4}.png"), distance=distance)
        for n, distance in enumerate(distances)
    )
    row = Lookalike(name="sample-3", image=str(folder / "3.png"), nearest=nearest)
    told = {"title": "night at step 7,000", "space": "inception-v3", "searched": 5000, "usual_distance": 0.2}
    return Lookalikes(**{**told, "rows": (row,) * rows, **others})


EIGHT = tuple(spoke(f"metric-{n}", 14.0 + 4 * n, 45.0 - 4 * n) for n in range(8))


def image(drawing):
    return Image.open(io.BytesIO(render(drawing, "png")))


def count(picture, colour, tolerance=3):
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) <= tolerance).sum())


def words(drawing) -> str:
    """The texts of the picture: matplotlib leaves each as a comment beside its outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", render(drawing, "svg").decode()))


# --- contact sheets ------------------------------------------------------------------------------------------


def test_a_contact_sheet_has_all_samples_in_order_from_the_left_in_equal_cells(folder):
    picture = image(sheet_of(folder, 16)).convert("RGB")
    pixels = np.asarray(picture).astype(int)
    assert picture.mode == "RGB"
    assert max(picture.size) < 900
    assert 0.8 < picture.height / picture.width < 1.25
    centres = [(x, y) for y in (110, 290, 475, 660) for x in (85, 250, 415, 585)]
    found = [min(range(4), key=lambda n: np.abs(pixels[y, x] - COLOURS[n]).sum()) for x, y in centres]
    assert found == [0, 1, 2, 3] * 4
    # Pixel for pixel: no more than the last bit is lost.
    assert all(count(picture, colour, 1) > 4 * 150 * 150 for colour in COLOURS)
    assert words(sheet_of(folder, 16)).count("sample-") == 16


def test_cells_have_the_shape_of_most_pictures_and_pictures_keep_theirs(folder, tmp_path):
    for place in range(4):
        Image.new("RGB", (200, 100), COLOURS[0]).save(tmp_path / f"{place}.png")
    wide = image(sheet_of(tmp_path, 4))
    assert count(wide, COLOURS[0]) > 0.6 * wide.width * wide.height
    # One of another shape among them stands in the middle of its cell.
    Image.new("RGB", (100, 100), COLOURS[1]).save(tmp_path / "1.png")
    mixed = np.asarray(image(sheet_of(tmp_path, 4)).convert("RGB")).astype(int)
    found = np.argwhere(np.abs(mixed - COLOURS[1]).max(axis=2) <= 3)
    tall, broad = found.max(axis=0) - found.min(axis=0) + 1
    assert abs(tall - broad) <= 1


def test_a_small_picture_is_enlarged_to_squares_without_blur(tmp_path):
    board = np.array([[0, 255], [255, 0]], np.uint8)
    larger = np.asarray(fitted(Image.fromarray(board).convert("RGB"), 151, 151))
    assert larger.shape == (151, 151, 3)
    assert set(np.unique(larger[:70, :70])) == {0}
    assert set(np.unique(larger[:70, 80:])) == {255}


def test_a_large_picture_is_averaged_as_it_shrinks():
    stripes = np.tile(np.array([[0], [255]], np.uint8), (256, 512))
    smaller = np.asarray(fitted(Image.fromarray(stripes).convert("RGB"), 100, 100))
    assert smaller[10:-10].min() > 90
    assert smaller[10:-10].max() < 165


def test_more_samples_than_can_be_seen_are_left_off_and_counted(folder):
    text = words(sheet_of(folder, 70))
    assert text.count("sample-") == 64
    assert "the first 64 of 70 samples" in text
    assert "no samples" in words(sheet_of(folder, 0))


def test_names_that_are_too_long_are_cut_where_they_are_alike(folder):
    names = [f"{'validation-of-the-night-run-' * 3}{n:04d}.png" for n in range(16)]
    samples = tuple(KeptSample(name=name, path=str(folder / "0.png")) for name in names)
    text = words(ContactSheet(title="t", samples=samples))
    assert len(set(re.findall(r"valid\S*…\S*\.png", text))) == 16


def test_sixteen_photographs_make_a_file_that_a_browser_loads_at_once(folder):
    samples = tuple(KeptSample(name=f"{n}", path=str(folder / f"{n:04d}.png")) for n in range(16))
    assert len(render(ContactSheet(title="t", samples=samples), "png")) < 600_000


# --- files ---------------------------------------------------------------------------------------------------


def _broken(name, path):
    picture = Image.new("RGB", (64, 64), "red")
    if name == "a folder":
        path.mkdir()
    elif name == "a pipe that nobody writes":
        os.mkfifo(path)
    elif name == "empty":
        path.touch()
    elif name == "text":
        path.write_text("no picture")
    elif name == "another format":
        picture.save(path, "JPEG")
    elif name == "cut":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif name == "too many pixels":
        Image.new("1", (2001, 2000)).save(path)
    elif name == "a great file":
        with path.open("wb") as file:
            picture.save(file, "PNG")
            file.truncate(33_000_000)
    elif name == "words that unpack without end":
        info = PngImagePlugin.PngInfo()
        info.add_text("k", "x" * 40_000_000, zip=True)
        picture.save(path, pnginfo=info)


BROKEN = [
    "gone",
    "a folder",
    "a pipe that nobody writes",
    "empty",
    "text",
    "another format",
    "cut",
    "too many pixels",
    "a great file",
    "words that unpack without end",
]


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_small_png_is_an_empty_frame_with_a_cross(name, folder, tmp_path):
    path = tmp_path / "0.png"
    _broken(name, path)
    assert read_picture(str(path)) is None
    sheet = sheet_of(folder, 4)
    broken = replace(sheet, samples=(KeptSample(name="sample-0", path=str(path)), *sheet.samples[1:]))
    picture = image(broken)
    assert picture.size == image(sheet).size
    assert count(picture, COLOURS[0]) == 0
    # The cross goes through the middle of the first cell, and not of the others.
    assert np.asarray(picture)[38 + 128 - 2 : 38 + 128 + 2, 82 + 128 - 140 : 82 + 128 + 140].min() < 160


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", "x" * 5000])
def test_a_name_that_no_file_has_is_no_picture(path):
    assert read_picture(path) is None


def test_pngs_of_any_kind_are_read_as_they_look(tmp_path):
    path = tmp_path / "x.png"
    cases = [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (4, 4), (100, 255)), (100, 100, 100)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 0x8000, np.uint16)), (128, 128, 128)),
        (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), (9, 8, 7)),
    ]
    for picture, colour in cases:
        picture.save(path)
        found = read_picture(str(path))
        assert found is not None
        assert found.mode == "RGB"
        assert found.getpixel((1, 1)) == colour, picture.mode


def test_a_cell_is_never_more_slender_than_two_to_one():
    assert shape([None]) == 1
    assert shape([Image.new("L", (1, 4000)), None]) == 2
    assert shape([Image.new("L", (4000, 1))]) == 0.5


# --- comparisons ---------------------------------------------------------------------------------------------


def test_a_comparison_shows_content_style_output_and_difference_side_by_side(folder):
    drawing = comparison_of(compared(folder), compared(folder, "meadow", heat_mean=0.5))
    text = words(drawing)
    for word in ("content", "style", "output", "difference", "harbour", "meadow", "mean 0.123", "mean 0.5", "≥ 0.75"):
        assert word in text.splitlines()
    assert "lpips" in text
    pixels = np.asarray(image(drawing)).astype(int)[130]
    order = [np.flatnonzero(np.abs(pixels - COLOURS[n]).max(axis=1) <= 3).mean() for n in (1, 2, 0)]
    assert order == sorted(order)


def test_columns_that_no_row_has_are_left_off_and_a_gap_in_one_is_said(folder):
    bare = compared(folder, style="", heat="", heat_mean=None)
    text = words(comparison_of(bare, bare))
    assert "style" not in text
    assert "difference" not in text
    assert "none" not in text
    assert "none" in words(comparison_of(bare, compared(folder)))
    assert "no samples" in words(comparison_of())
    assert "the first 12 of 13 samples" in words(comparison_of(*[bare] * 13))


def test_hotter_is_lighter_for_any_colour_vision():
    heats = np.arange(256, dtype=np.uint8)[None]
    colours = _coloured(heats, np.full_like(heats, 128))[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    # Machado, Oliveira and Fernandes 2009: nobody's M, L cones.
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    for seen in (linear, linear @ np.transpose(deutan), linear @ np.transpose(protan)):
        lightness = np.cbrt(np.clip(seen, 0, 1) @ [0.2126, 0.7152, 0.0722])
        assert np.all(np.diff(lightness[::8]) > 0)
        assert lightness[-1] - lightness[0] > 0.4


def test_the_heat_lies_where_it_was_measured_over_the_output_in_grey(folder):
    right = 500
    pixels = np.asarray(image(comparison_of(compared(folder)))).astype(int)[140]
    cold, hot = pixels[right + 40], pixels[right + 120]
    assert hot.sum() > cold.sum() + 200
    # Without an output, the heat is still shown.
    lost = np.asarray(image(comparison_of(compared(folder, image="/gone.png")))).astype(int)[140]
    assert lost[right + 120].sum() > lost[right + 40].sum() + 200


# --- radars --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "best", "worst", "expected"),
    [
        (10.0, 10.0, 50.0, 1.0),
        (50.0, 10.0, 50.0, 0.0),
        (20.0, 10.0, 50.0, 0.75),
        (0.3, 0.9, 0.1, 0.25),
        (99.0, 10.0, 50.0, 0.0),
        (-1.0, 10.0, 50.0, 1.0),
        (3.0, 7.0, 7.0, 1.0),
        (0.0, -1.7e308, 1.7e308, 0.5),
        (0.0, 5e-324, -5e-324, 0.5),
        (1.7e308, 1e-320, 0.0, 1.0),
        (None, 1.0, 2.0, None),
        (math.nan, 1.0, 2.0, None),
        (1.0, math.inf, 2.0, None),
    ],
)
def test_a_value_stands_between_the_worst_and_the_best(value, best, worst, expected):
    found = standing(value, spoke("k", value, best=best, worst=worst))
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_radar_names_each_metric_with_its_value_and_the_direction_that_is_good():
    text = words(radar_of(*EIGHT[:3], spoke("ssim", 0.61234, best=0.9, worst=0.1), best_step=5000, best_by="fid"))
    for words_ in ("metric-0", "↓ 14", "ssim", "↑ 0.6123", "this step, 7,000", "best step so far by fid, 5,000"):
        assert words_ in text.splitlines()
    assert {"best so far", "worst so far"} <= set(text.splitlines())


def test_outside_is_good():
    # Of four spokes with one value each, the marker is straight above the centre.
    def top(value):
        spokes = (spoke("a", value), *(spoke(f"{n}", None) for n in range(3)))
        pixels = np.asarray(image(radar_of(*spokes))).astype(int)[85:330, 350:370]
        return np.argwhere(np.abs(pixels - BLUE).max(axis=2) <= 3)[:, 0].mean()

    assert top(10.0) + 75 < top(30.0) < top(50.0) - 75


def test_the_best_step_is_a_broken_line_with_other_markers_and_absent_without_one():
    assert count(image(radar_of(*EIGHT, best_step=5000)), ORANGE) > 200
    assert count(image(radar_of(*EIGHT)), ORANGE) == 0
    assert "best step" not in words(radar_of(*EIGHT))
    # Without colours the two differ as well.
    swapped = tuple(replace(each, value=each.at_best_step, at_best_step=each.value) for each in EIGHT)
    assert image(radar_of(*EIGHT, best_step=5)).convert("1") != image(radar_of(*swapped, best_step=5)).convert("1")


def test_a_metric_without_a_value_is_a_gap_and_says_so():
    assert _runs([0.1, 0.2, 0.3]) == [[(0, 0.1), (1, 0.2), (2, 0.3), (0, 0.1)]]
    assert _runs([0.1, None, 0.3, None, 0.5]) == [[(2, 0.3)], [(4, 0.5), (0, 0.1)]]
    assert _runs([None, None]) == []
    gaps = radar_of(*(replace(each, value=None) if n in {2, 5} else each for n, each in enumerate(EIGHT)))
    assert words(gaps).count("no value") == 2
    assert count(image(gaps), BLUE) < count(image(radar_of(*EIGHT)), BLUE)
    nowhere = radar_of(*(replace(each, value=math.nan, at_best_step=None) for each in EIGHT), best_step=3)
    assert words(nowhere).count("no value") == 8


def test_fewer_than_three_metrics_are_dots_on_lines_with_the_good_end_at_the_right():
    two = radar_of(spoke("fid", 20.0, 12.0), spoke("kid", None), best_step=5000)
    text = words(two).splitlines()
    assert {"↓ 20", "no value", "worst so far 50", "best so far 10", "best step so far, 5,000"} <= set(text)
    pixels = np.asarray(image(two)).astype(int)[70:100]
    mark = np.argwhere(np.abs(pixels - BLUE).max(axis=2) <= 3)[:, 1].mean()
    assert 0.7 < (mark - 32) / (720 - 64) < 0.8
    assert "no metrics" in words(radar_of())


def test_of_more_metrics_than_fit_the_first_are_drawn_and_labels_do_not_meet():
    many = radar_of(*(spoke(f"metric-{n:02d}", 30.0) for n in range(30)))
    text = words(many)
    assert "the first 24 of 30 metrics" in text
    assert "metric-23" in text
    assert "metric-24" not in text
    heights = _apart([0.0, 1.0, 2.0, 300.0, 399.0, 400.0], 200, 200)
    assert all(below - above >= 38 for above, below in itertools.pairwise(heights))
    assert heights[0] == 0
    assert heights[-1] == 400
    assert heights[3] == 300


# --- lookalikes ----------------------------------------------------------------------------------------------


def test_lookalikes_closer_than_usual_have_a_thick_frame_and_words(folder):
    drawing = lookalikes_of(folder, 0.12, 0.2, 0.31)
    text = words(drawing).splitlines()
    assert {"✕ 0.12", "✕ 0.2", "0.31", "✕ 2 closer than usual", "monet-0.jpg", "sample-3"} <= set(text)
    assert "nearest of 5,000 images of the reference, by features of inception-v3" in text
    frames = [count(image(lookalikes_of(folder, *distances)), VERMILION) for distances in ((0.5,), (0.1,), (0.1, 0.1))]
    assert frames[0] == 0
    assert frames[2] == pytest.approx(2 * frames[1], rel=0.05)
    assert frames[1] > 4 * 4 * 150


@pytest.mark.parametrize("usual", [None, math.nan])
def test_nothing_is_marked_where_the_usual_distance_is_not_known(folder, usual):
    drawing = lookalikes_of(folder, 0.0, 0.2, usual_distance=usual)
    assert "✕" not in words(drawing)
    assert "nan" not in words(drawing)
    assert count(image(drawing), VERMILION) == 0


def test_lookalikes_may_be_missing_or_many(folder):
    assert "no image of the reference" in words(lookalikes_of(folder))
    assert "no samples" in words(lookalikes_of(folder, rows=0))
    many = words(lookalikes_of(folder, *[0.5] * 20, rows=14))
    assert many.count("….jpg") == 12 * 8
    assert "the first 12 of 14 samples" in many


# --- all of them ---------------------------------------------------------------------------------------------

HOSTILE = [
    "$x^2$ 100% \\frac",
    "a" * 5000,
    "画像\n\x00\ud800 \U0001f408 run",
    "<b>&amp; --> ]]>",
    "",
    "\u202egnp.exe עברית",
    "Z͑ͫ̓a̴̧l̡",
]


def every(folder, name):
    nearest = (Neighbour(name=name, image=str(folder / "0.png"), distance=0.1),) * 4
    return [
        ContactSheet(title=name, samples=(KeptSample(name=name, path=str(folder / "0.png")),) * 9),
        replace(comparison_of(compared(folder, name)), title=name, heat_of=name),
        replace(comparison_of(Compared(name=name, image="", heat=str(folder / "heat.png"))), heat_of=name),
        radar_of(*(replace(each, key=name) for each in EIGHT * 3), title=name, best_step=10**18, best_by=name),
        radar_of(replace(EIGHT[0], key=name), title=name, best_step=10**18, best_by=name),
        Lookalikes(
            title=name,
            rows=(Lookalike(name=name, image=str(folder / "0.png"), nearest=nearest),),
            space=name,
            searched=10**9,
            usual_distance=0.123456,
        ),
    ]


@pytest.mark.parametrize("name", ["$x^2$ 100% \\frac", "<b>&amp; --> ]]>\n\x00\ud800 \U0001f408"])
def test_any_name_is_text(name, folder):
    for drawing in every(folder, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            svg = render(drawing, "svg")
        ET.fromstring(svg)
        # In a formula letters are slanted.
        assert b"Oblique" not in svg


@pytest.mark.parametrize("name", HOSTILE)
def test_words_stay_on_the_paper_and_can_be_read(name, folder):
    for drawing in every(folder, name):
        with settings():
            figure = _figure(drawing)
            width, height = figure.canvas.get_width_height()
            for text in figure.findobj(Text):
                if text.get_text():
                    box = text.get_window_extent()
                    assert 0 <= box.x0 < box.x1 <= width, text
                    assert 0 <= box.y0 < box.y1 <= height, text
                    # 11 pixels and more where the picture is shown at 600.
                    assert text.get_fontsize() * figure.dpi / 72 * 600 / width >= 11


@pytest.fixture(scope="module")
def drawn(folder):
    drawings = [
        replace(sheet_of(folder, 16), title="\ud800"),
        comparison_of(*[compared(folder)] * 4),
        radar_of(*EIGHT, best_step=5),
        lookalikes_of(folder, 0.1, 0.3, rows=4),
    ]
    start = time.perf_counter()
    return drawings, draw(drawings), time.perf_counter() - start


def test_the_same_drawing_gives_the_same_bytes_in_any_process(drawn):
    drawings, pictures, _ = drawn
    assert pictures == [render(drawing, "png") for drawing in drawings]
    assert all(set(Image.open(io.BytesIO(picture)).info) == set() for picture in pictures)


def test_the_figures_of_an_evaluation_are_drawn_in_no_time(drawn):
    # Mostly the start of the process: 1.2 s on two quiet cores.
    assert drawn[2] < 15


def test_a_request_of_any_kind_comes_through_as_it_was(drawn):
    drawings, _, _ = drawn
    assert decode_request(encode_request(drawings, "png", 9)) == (drawings, "png", 9)


def test_types_of_figures_leave_heavy_libraries_out():
    code = (
        "import sys, json, metricwatch.drawing.figures, metricwatch.drawing.process\n"
        "print(json.dumps([name for name in ('matplotlib', 'numpy', 'PIL', 'torch') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
