"""The report of a run: what it says, that it needs nothing else, and when it is made again."""

from __future__ import annotations

import base64
import io
import math
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from PIL import Image as Pillow

from metricwatch.api import Sink
from metricwatch.config.rules import AboveRule, MovesRule
from metricwatch.errors import InputError, PermanentError, RunGoneError, TemporaryError
from metricwatch.records import Point, RemoteRun, RunFacts, StoredPicture
from metricwatch.reporting import reading
from metricwatch.reporting.collect import Wanted, collect
from metricwatch.reporting.making import make
from metricwatch.reporting.origins import depends
from metricwatch.reporting.reading import read_series
from metricwatch.reporting.shrink import shrunk
from metricwatch.reporting.words import number, span

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&night"
MOVED = MovesRule.model_validate({"name": "fid-moved", "metric": "fid", "moves": 0.1, "across": 3})
HIGH = AboveRule.model_validate({"name": "high", "metric": "fid", "above": 60, "severity": "warning"})


def png(side=64, colour="navy"):
    made = io.BytesIO()
    Pillow.new("RGBA", (side, side), colour).save(made, "PNG")
    return made.getvalue()


class Recorded(Sink):
    """A sink that holds one run: points by key, in pages of three."""

    Options = dict

    def __init__(self, options=None) -> None:
        self.points: dict[str, list[Point]] = {}
        self.tags, self.stored, self.files = {}, [], {}
        self.name, self.error, self.reads = "night", None, []

    def find_run(self, run):
        return RemoteRun(id="r")

    def write(self, run_id, points, tags):
        for point in points:
            self.points.setdefault(point.key, []).append(point)
        self.tags.update(tags)

    def keys(self, run_id):
        return sorted(self.points)

    def read_pages(self, run_id, key):
        rows = self.points[key]
        for start in range(0, len(rows), 3):
            yield rows[start : start + 3]

    def facts(self, run_id):
        return RunFacts(id=run_id, name=self.name, status="FINISHED", url="http://host/#/r", tags=self.tags)

    def pictures(self, run_id):
        if self.error:
            raise self.error
        return self.stored

    def read_picture(self, run_id, picture):
        self.reads.append(picture.place)
        found = self.files[picture.place]
        if isinstance(found, Exception):
            raise found
        return found

    def ping(self):
        return "here"

    def curve(self, name, values, *, stderr=None, at=0, prefix="quality/"):
        for place, value in enumerate(values, 1):
            moment = (at + place) * 60_000
            self.points.setdefault(prefix + name, []).append(
                Point(key=prefix + name, value=value, timestamp_ms=moment, step=100 * place)
            )
            if stderr is not None:
                key = f"{prefix}{name}_stderr"
                self.points.setdefault(key, []).append(
                    Point(key=key, value=stderr, timestamp_ms=moment, step=100 * place)
                )

    def picture(self, key, step, content=None):
        place = f"images/{key}-{step}"
        self.stored.append(StoredPicture(key=key, step=step, timestamp_ms=step, place=place))
        self.files[place] = content or png()


@pytest.fixture
def sink():
    made = Recorded()
    made.curve("fid", [50, 40, 30, 35, 32], stderr=0.5)
    made.curve("ssim", [0.1, 0.2, 0.9, 0.4, 0.5])
    return made


def asked(**more):
    return Wanted(run_id="r", where="http://host", prefix="quality", **more)


def collected(sink, **more):
    return collect(sink, asked(**more), now=NOW)


def drawn(curves, form):
    return [f"<svg>{curve.key}</svg>".encode() for curve in curves]


def page_of(sink, draw=drawn, **more):
    content, notes = make(sink, collected(sink, **more), draw=draw)
    return content.decode(), notes


class Strict(HTMLParser):
    """Collects tags and text, and holds that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# --- values --------------------------------------------------------------------------------------------------


def test_best_and_worst_follow_each_metrics_own_direction(sink):
    report = collected(sink)
    assert [each.name for each in report.series] == ["fid", "ssim"]
    fid, ssim = report.series
    assert (fid.best.step, fid.worst.step, fid.last.step, fid.last.stderr) == (300, 100, 500, 0.5)
    assert (ssim.best.step, ssim.worst.step) == (300, 100)
    assert report.by == "fid"
    assert [(view.step, view.labels) for view in report.steps] == [
        (300, ("best",)),
        (100, ("worst",)),
        (500, ("last",)),
    ]


def test_a_metric_of_which_nothing_is_known_has_a_highest_and_a_lowest_value_only(sink):
    sink.points = {}
    sink.curve("mine", [1, 3, 2])
    assert [view.labels for view in collected(sink).steps] == [("highest",), ("lowest",), ("last",)]
    page, _ = page_of(sink)
    assert "highest, step 200" in page
    assert "nobody says which way is better" in page
    assert [view.step for view in collected(sink, rises=False).steps if "best" in view.labels] == [100]


def test_a_composite_or_the_metric_that_was_asked_for_says_which_steps_are_shown(sink):
    assert collected(sink, metric="quality/ssim").by == "ssim"
    sink.curve("composite_all", [1, 2, 3, 4, 0])
    assert collected(sink, composites={"all": True}).by == "composite_all"
    assert collected(sink, composites={"all": True}).steps[0].step == 400
    with pytest.raises(InputError, match="no such curve; did you mean 'ssim'"):
        collected(sink, metric="sim")


def test_a_step_written_again_counts_as_it_was_written_last(sink):
    key = "quality/fid"
    sink.points[key].append(Point(key=key, value=99.0, timestamp_ms=10**9, step=300))
    series = read_series(sink, "r", key, name="fid", rises=False, with_stderr=True)
    assert series.at(300).value == 99.0
    # What was logged with the value of before does not belong to this one.
    assert series.at(300).stderr is None
    assert series.best.step == 500
    assert series.evaluations == 5


def test_what_is_not_finite_is_a_gap(sink):
    sink.points["quality/fid"][1] = Point(key="quality/fid", value=math.nan, timestamp_ms=120_000, step=200)
    sink.points["quality/fid"][4] = Point(key="quality/fid", value=math.inf, timestamp_ms=300_000, step=500)
    report = collected(sink)
    assert report.series[0].gaps == (200, 500)
    assert report.curves["fid"].gaps == (200, 500)
    assert "2 without a value" in page_of(sink)[0]


def test_thousands_of_steps_are_thinned_but_for_what_stands_out(sink, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_STEPS", 400)
    values = [math.sin(place / 300) for place in range(5000)]
    values[2345], values[777] = 9.0, -9.0
    sink.curve("long", values)
    series = read_series(sink, "r", "quality/long", name="long", rises=True, with_stderr=False, pinned={123_400})
    assert len(series.points) <= 400
    assert (series.best.step, series.worst.step) == (234_600, 77_800)
    assert (series.first.step, series.last.step) == (100, 500_000)
    assert series.at(123_400) is not None
    assert series.evaluations == 5000
    assert "long has 5,000 evaluations" in page_of(sink)[0]


# --- alerts --------------------------------------------------------------------------------------------------


def test_alerts_are_read_from_the_series_of_what_rules_said(sink):
    sink.curve("fid-moved", [0, 0, 1, 1, 0], prefix="alert/")
    sink.curve("high", [0, 1, 0, 0, 1], prefix="alert/")
    sink.tags["metricwatch.alert.high"] = "firing at step 500: ssim is above 1 (worse)"
    unknown = {e.rule: (e.metric, e.severity, e.direction) for e in collected(sink).episodes}
    assert unknown == {"fid-moved": ("fid", "info", "better"), "high": ("ssim", "info", "better")}
    report = collected(sink, rules=[MOVED, HIGH])
    found = [(e.rule, e.metric, e.fired, e.until, e.severity) for e in report.episodes]
    assert found == [
        ("high", "fid", 500, None, "warning"),
        ("fid-moved", "fid", 300, 500, "info"),
        ("high", "fid", 200, 300, "warning"),
    ]
    assert [span.fired for span in report.curves["fid"].spans] == [500, 300, 200]
    assert report.curves["fid"].bounds == (60.0,)
    page, _ = page_of(sink, rules=[MOVED, HIGH])
    assert "Fires when fid is above 60" in page
    assert "3, 1 firing" in page


# --- pictures ------------------------------------------------------------------------------------------------


def test_a_step_is_shown_with_its_own_pictures_or_the_nearest_ones(sink):
    for step in (100, 300, 400):
        sink.picture("quality/contact_sheet", step)
    sink.picture("quality/comparison", 300)
    sink.picture("quality/radar", 500)
    report = collected(sink)
    shown = {view.step: [each.picture.step for each in view.pictures] for view in report.steps}
    assert shown == {300: [300, 300], 100: [100, 300], 500: [400, 300]}
    assert [each.title for each in report.closing] == ["All metrics"]
    page, _ = page_of(sink)
    assert "of step 400, the nearest one with pictures" in page
    # Each is fetched once, however often it is shown.
    assert len(sink.reads) == len(set(sink.reads)) == 5


def test_without_contact_sheets_samples_are_shown_and_else_whatever_there_is(sink):
    sink.picture("train/sample", 300)
    assert [each.title for each in collected(sink).steps[0].pictures] == ["train/sample"]
    for name in "abcdef":
        sink.picture(f"quality/samples/{name}", 300)
    assert [each.title for each in collected(sink).steps[0].pictures] == [f"samples/{name}" for name in "abcd"]


def test_pictures_that_cannot_be_had_cost_themselves_alone(sink):
    for step, content in ((100, PermanentError("it has gone")), (300, b"no picture"), (500, None)):
        sink.picture("quality/contact_sheet", step, content)
    page, notes = page_of(sink)
    assert "it has gone" in page
    assert "no PNG that can be shown" in page
    assert page.count("data:image/webp") == 1
    assert notes == ()
    sink.files = {place: TemporaryError("the store is away") for place in sink.files}
    sink.reads.clear()
    page, notes = page_of(sink)
    assert notes == ("pictures are left out: the store is away",)
    assert len(sink.reads) == 1
    sink.error = TemporaryError("no list")
    assert page_of(sink)[1] == ("pictures are left out: no list",)
    sink.error = RunGoneError("gone")
    with pytest.raises(RunGoneError):
        page_of(sink)


def test_pictures_are_made_small_enough_to_be_mailed():
    noise = Pillow.effect_noise((1600, 1200), 100).convert("RGBA")
    made = io.BytesIO()
    noise.save(made, "PNG")
    content, width, height = shrunk(made.getvalue())
    assert (width, height) in {(900, 675), (700, 525)}
    assert len(content) < 300_000
    assert shrunk(made.getvalue())[0] == content
    # What is transparent is as on paper.
    content, *_ = shrunk(png(colour=(0, 0, 0, 0)))
    assert Pillow.open(io.BytesIO(content)).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


# --- the page ------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_takes_no_name_for_more_than_text(sink):
    sink.name = HOSTILE
    sink.curve(HOSTILE, [1, 2, 3])
    sink.curve(HOSTILE, [0, 1, 1], prefix="alert/")
    sink.picture(f"quality/samples/{HOSTILE}", 300)
    sink.tags.update({"metricwatch.series.fid": f"since step 100: extractor={HOSTILE}", "metricwatch.x": HOSTILE})
    page, _ = page_of(sink)
    parsed = Strict(page)
    assert {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "svg"} == set()
    addresses = [attrs[name] for _, attrs in parsed.tags for name in ("src", "href") if name in attrs]
    assert [each for each in addresses if not each.startswith("data:image/")] == ["http://host/#/r"]
    assert all(not name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert parsed.text.count(HOSTILE) >= 7
    assert "default-src 'none'" in page


def test_an_address_that_is_none_of_the_web_is_nothing_to_click_on(sink):
    sink.facts = lambda run_id: RunFacts(id="r", name="n", url="javascript:alert(1)")
    assert "javascript" not in page_of(sink)[0]


def test_the_same_content_gives_the_same_page(sink):
    sink.picture("quality/contact_sheet", 300)
    assert page_of(sink) == page_of(sink)


def test_curves_that_cannot_be_drawn_are_missing_with_the_reason(sink):
    def broken(curves, form):
        raise TemporaryError("no process")

    page, notes = page_of(sink, draw=broken)
    assert notes == ("curves are left out: no process",)
    assert "Not drawn." in page


def test_the_curves_are_drawn_for_real(sink):
    from metricwatch.drawing.process import draw

    page, notes = page_of(sink, draw=draw)
    assert notes == ()
    found = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(found) == 2
    assert b"<svg" in base64.b64decode(found[0])[:1000]


def test_a_run_with_one_step_and_no_pictures_has_a_page(sink):
    sink.points = {}
    sink.curve("fid", [12.5], stderr=0.1)
    sink.curve("images", [64])
    sink.curve("evaluation_seconds", [3.5])
    page, _ = page_of(sink)
    assert "Best and worst and last" in page
    assert "The run has no pictures." in page
    assert "Images an evaluation</dt><dd>64" in page


def test_a_run_without_a_finite_value_has_a_page(sink):
    sink.points = {}
    sink.curve("fid", [math.nan, math.inf])
    page, _ = page_of(sink)
    assert "2 without a value" in page
    assert collected(sink).by == ""


def test_a_run_without_our_curves_says_what_it_has(sink):
    sink.points = {}
    with pytest.raises(InputError, match="no metrics at all"):
        collected(sink)
    sink.curve("loss", [1], prefix="")
    with pytest.raises(InputError, match="no prefix"):
        collected(sink)
    sink.curve("fid", [1], prefix="eval/x/")
    with pytest.raises(InputError, match="under 'eval/x': --prefix names another one"):
        collected(sink)


# --- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (12.3456789, "12.346"),
        (-0.5, "−0.50000"),
        (123456.7, "123,457"),
        (1e-9, "1e-09".replace("-", "−")),
    ],
)
def test_numbers_have_five_significant_digits(value, text):
    assert number(value) == text


def test_times_are_short():
    assert [span(timedelta(seconds=s)) for s in (5, 61, 7260, 90_000)] == ["5 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]


def test_what_values_depend_on_is_taken_apart():
    (found,) = depends({"metricwatch.series.fid": "since step 5: a_b=x, y, c=1", "mlflow.user": "me"})
    assert (found.metric, found.since, found.facts) == ("fid", "since step 5", (("a b", "x, y"), ("c", "1")))
