"""The report as one HTML file that needs nothing else. It has no script and asks no other address for anything."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from metricwatch.records import StoredPicture, WindowPoint
from metricwatch.reporting import words
from metricwatch.reporting.content import Depends, Episode, Report, Series, Shown, StepView
from metricwatch.reporting.style import POLICY, STYLE

_ARROWS = {
    True: ("↑", "higher is better"),
    False: ("↓", "lower is better"),
    None: ("", "which way is better is unknown"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture in the page: its file, its MIME type, and its size in pixels. trouble says why there is none."""

    content: bytes = b""
    kind: str = "image/webp"
    width: int = 0
    height: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The report's pictures: curves by metric as SVG, the others by their place. notes say what could not be had."""

    curves: Mapping[str, bytes] = field(default_factory=dict)
    pictures: Mapping[str, Image] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build_report(report: Report, drawn: Drawn) -> bytes:
    """The page as UTF-8. Whatever a name, a tag or a reason holds is shown as text."""
    return "\n".join(_lines(report, drawn)).encode("utf-8", "replace")


def _lines(report: Report, drawn: Drawn) -> Iterator[str]:
    name = escape(report.run.name)
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Report of {name}</title><style>{STYLE}</style></head><body>"
    yield from _header(report)
    yield from _summary(report)
    yield from _alerts(report)
    yield from _curves(report, drawn)
    yield from _steps(report, drawn)
    yield from _closing(report, drawn)
    yield from _origins(report)
    notes = [*report.notes, *drawn.notes]
    if notes:
        yield "<h2>What is left out</h2><ul>"
        yield from (f"<li>{escape(note)}</li>" for note in notes)
        yield "</ul>"
    yield "</body></html>"


# --- the parts -----------------------------------------------------------------------------------------------


def _header(report: Report) -> Iterator[str]:
    run = report.run
    yield f"<header><h1>{escape(run.name)}</h1>"
    # What is no web address is nothing to click on.
    linked = run.url is not None and run.url.startswith(("http://", "https://"))
    where = (
        f'<a href="{escape(run.url or "", quote=True)}">{escape(report.where)}</a>' if linked else escape(report.where)
    )
    made = f"Made {words.time(report.made_at)} by metricwatch."
    yield f'<p class="soft">Run <code>{escape(run.id)}</code> at {where}. {made}</p>'
    firing = sum(episode.until is None for episode in report.episodes)
    total = len(report.episodes) + report.episodes_left_off
    alerts = f"{total:,}, {firing:,} firing" if total else "none"
    facts = [
        ("Status", escape(run.status or "unknown")),
        ("Evaluations", f"{report.evaluations:,}"),
        ("Last step", f"{report.last_step:,}" if report.last_step is not None else "–"),
        ("Images an evaluation", f"{report.images:,}" if report.images is not None else ""),
        ("Seconds an evaluation", words.number(report.seconds) if report.seconds is not None else ""),
        ("Alerts", alerts),
        ("Started", words.time(run.started_at) if run.started_at else ""),
        ("Last evaluation", words.time(report.last_at) if report.last_at else ""),
        ("Ended", words.time(run.ended_at) if run.ended_at else ""),
        ("Took", words.span(run.ended_at - run.started_at) if run.ended_at and run.started_at else ""),
    ]
    yield '<dl class="facts">'
    yield from (f"<div><dt>{title}</dt><dd>{text}</dd></div>" for title, text in facts if text)
    yield "</dl></header>"


def _summary(report: Report) -> Iterator[str]:
    yield "<h2>Metrics</h2>"
    heads = ("Metric", "Last", "Best", "Worst", "Since the first", "Evaluations")
    yield f'<div class="scroll"><table><thead><tr>{_heads(heads)}</tr></thead><tbody>'
    for series in report.series:
        yield f"<tr>{_name(series)}{''.join(_summary_cells(series))}</tr>"
    yield "</tbody></table></div>"
    if any(series.rises is None for series in report.series):
        yield '<p class="soft">Of a metric without an arrow nobody says which way is better.</p>'


def _summary_cells(series: Series) -> Iterator[str]:
    first, last = series.first, series.last
    yield _number(words.with_error(last), last)
    high, low = ("", "") if series.rises is not None else ("highest, ", "lowest, ")
    yield _number(words.with_error(series.best), series.best, high)
    yield _number(words.with_error(series.worst), series.worst, low)
    yield _number(words.change(first, last, series.rises) if first and last and first is not last else "")
    gaps = f"<small>{len(series.gaps):,} without a value</small>" if series.gaps else ""
    yield f'<td class="number">{series.evaluations:,}{gaps}</td>'


def _alerts(report: Report) -> Iterator[str]:
    yield "<h2>Alerts</h2>"
    if not report.episodes:
        yield '<p class="soft">None.</p>'
        return
    heads = _heads(("Rule", "State", "Severity", "Metric", "From step", "To step"), ())
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
    told: set[str] = set()
    for episode in report.episodes:
        # The same sentence once is enough.
        sentence = "" if episode.rule in told else report.rule_words.get(episode.rule, "")
        told.add(episode.rule)
        yield _episode(episode, sentence)
    yield "</tbody></table></div>"
    if report.episodes_left_off:
        yield f'<p class="soft">{report.episodes_left_off:,} older ones are not shown.</p>'


def _episode(episode: Episode, sentence: str) -> str:
    firing = episode.until is None
    state = f'<span class="badge {"firing" if firing else "over"}">{"firing" if firing else "resolved"}</span>'
    direction = f", {episode.direction}" if episode.direction else ""
    small = f"<small>{escape(sentence)}</small>" if sentence else ""
    return (
        f'<tr><td class="words">{escape(episode.rule)}{small}</td><td>{state}</td>'
        f'<td><span class="badge {episode.severity}">{episode.severity}</span>{direction}</td>'
        f'<td class="words">{escape(episode.metric) if episode.metric else "–"}</td><td>{episode.fired:,}</td>'
        f"<td>{'–' if episode.until is None else f'{episode.until:,}'}</td></tr>"
    )


def _curves(report: Report, drawn: Drawn) -> Iterator[str]:
    yield '<h2>Curves</h2><div class="curves">'
    for name in report.curves:
        series = report.of(name)
        arrow = f" {_arrow(series)}" if series else ""
        picture = drawn.curves.get(name)
        shown = (
            _img(picture, "image/svg+xml", f"The curve of {name}", 640, 320)
            if picture is not None
            else '<p class="soft">Not drawn.</p>'
        )
        yield f"<figure><figcaption>{escape(name)}{arrow}</figcaption>{shown}</figure>"
    yield "</div>"
    if not report.curves:
        yield '<p class="soft">None has a value.</p>'


def _steps(report: Report, drawn: Drawn) -> Iterator[str]:
    if not report.steps or not report.by:
        return
    main = report.of(report.by)
    known = main is not None and main.rises is not None
    kinds = "Best, worst and last step" if known else "Highest, lowest and last step"
    yield f"<h2>{kinds} by {escape(report.by)}</h2>"
    heads = [f"{_label(view)}<br>step {view.step:,}" for view in report.steps]
    columns = "".join(f'<th class="number">{head}</th>' for head in heads)
    yield f'<div class="scroll"><table><thead><tr><th>Metric</th>{columns}</tr></thead><tbody>'
    for series in report.series:
        cells = "".join(_number(words.with_error(series.at(view.step))) for view in report.steps)
        yield f"<tr>{_name(series)}{cells}</tr>"
    yield "</tbody></table></div>"
    if not any(view.pictures for view in report.steps):
        yield '<p class="soft">The run has no pictures.</p>'
        return
    yield '<div class="steps" style="margin-top:.8rem">'
    for view in report.steps:
        pictures = "".join(_shown(shown, view.step, drawn) for shown in view.pictures)
        yield f"<figure><figcaption><strong>{_label(view)}</strong>, step {view.step:,}</figcaption>{pictures}</figure>"
    yield "</div>"


def _closing(report: Report, drawn: Drawn) -> Iterator[str]:
    if not report.closing or report.last_step is None:
        return
    yield f'<h2>The last step, {report.last_step:,}</h2><div class="curves">'
    for shown in report.closing:
        yield _shown(shown, report.last_step, drawn)
    yield "</div>"


def _origins(report: Report) -> Iterator[str]:
    if not report.depends and not report.tags:
        return
    yield "<h2>Where the values come from</h2>"
    if report.depends:
        heads = _heads(("Metric", "Since step", "Depends on"), ())
        yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
        yield from map(_depends, report.depends)
        yield "</tbody></table></div>"
    if report.tags:
        yield '<div class="scroll"><table><tbody>'
        for name, text in report.tags:
            yield f'<tr><th class="name">{escape(name)}</th><td class="words">{escape(text)}</td></tr>'
        yield "</tbody></table></div>"


def _depends(depends: Depends) -> str:
    facts = "".join(
        f'<li><span class="soft">{escape(name)}</span> {escape(value)}</li>' if name else f"<li>{escape(value)}</li>"
        for name, value in depends.facts
    )
    since = escape(depends.since.removeprefix("since step "))
    return (
        f'<tr><th class="name">{escape(depends.metric)}</th><td>{since}</td>'
        f'<td class="words"><ul class="plain">{facts}</ul></td></tr>'
    )


# --- pieces --------------------------------------------------------------------------------------------------


def _heads(titles: tuple[str, ...], plain: tuple[int, ...] = (0,)) -> str:
    """Column heads: over numbers but for the plain ones; () means that none is a number."""
    return "".join(
        f'<th class="number">{title}</th>' if plain and place not in plain else f"<th>{title}</th>"
        for place, title in enumerate(titles)
    )


def _name(series: Series) -> str:
    return f'<th class="name">{escape(series.name)} {_arrow(series)}</th>'


def _arrow(series: Series) -> str:
    sign, meaning = _ARROWS[series.rises]
    return f'<span class="soft" title="{meaning}" aria-label="{meaning}">{sign}</span>' if sign else ""


def _number(text: str, point: WindowPoint | None = None, before: str = "") -> str:
    small = f"<small>{before}step {point.step:,}</small>" if point is not None else ""
    return f'<td class="number">{text}{small}</td>'


def _label(view: StepView) -> str:
    return " and ".join(view.labels).capitalize()


def _shown(shown: Shown, step: int, drawn: Drawn) -> str:
    stored: StoredPicture = shown.picture
    image = drawn.pictures.get(stored.place, Image(trouble="not read"))
    of = "" if stored.step == step else f", of step {stored.step:,}, the nearest one with pictures"
    body = (
        f'<p class="soft">No picture: {escape(image.trouble)}</p>'
        if image.trouble
        else _img(image.content, image.kind, f"{shown.title} at step {stored.step}", image.width, image.height)
    )
    return f"<figure><figcaption>{escape(shown.title)}{of}</figcaption>{body}</figure>"


def _img(content: bytes, kind: str, meaning: str, width: int, height: int) -> str:
    """As a picture, not inline: what one SVG defines cannot meet the names of another."""
    data = base64.b64encode(content).decode()
    alt = escape(meaning, quote=True)
    return f'<img alt="{alt}" width="{width}" height="{height}" src="data:{kind};base64,{data}">'
