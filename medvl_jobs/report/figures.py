"""The report's figures as SVG text, drawn by hand; see `page.svg`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from medvl_jobs.page import svg
from medvl_jobs.page.look import theme
from medvl_jobs.page.words import number
from medvl_jobs.report.metrics import IN_PARTS
from medvl_jobs.report.plots import histograms, length_curves, loss_curves
from medvl_jobs.report.shape import Estimate, Headline, Report, Slicing
from medvl_jobs.report.words import interval

_BAR_LEFT, _BAR_RIGHT = 72, 316
_BAR_THICKNESS, _BAR_STEP, _HEADING_STEP = 14, 27, 26
_PERCENTS = range(0, 101, 25)
_LONGEST_NAME = 32
"""Characters; a figure has room for no more beside what is added. The table has it whole."""


def draw(report: Report) -> dict[str, str]:
    """All figures that this report has the numbers for, by name."""
    shorts = {variant["variant"]: variant["short"] for variant in report["variants"]}
    figures = {
        "looking": variant_bars(report["overall"]["headline"], shorts),
        "scores": histograms(report["distribution"], shorts),
        "lengths": length_curves(report["lengths"], shorts),
    }
    for slicing in report["slicings"]:
        if slicing["slices"]:
            label = report["overall"]["headline"]["label"]
            figures[f"by-{slicing['by'].replace(' ', '-')}"] = part_bars(slicing, label, shorts)
    if trainings := [training for training in report["trainings"] if training["steps"]]:
        figures["loss"] = loss_curves(trainings, shorts)
    return figures


def standalone(drawn: str) -> str:
    """The figure as a file of its own: with the colours inside, and a background."""
    style = f"<style>{theme()} svg {{ background: var(--paper); }}</style>"
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + drawn.replace("</title>", f"</title>{style}", 1) + "\n"


def variant_bars(headline: Headline, shorts: Mapping[str, str]) -> str:
    """One bar per variant with its 95 % interval: base, tuned, and what the controls score."""
    told = ", ".join(f"{shorts[name]} {number(each['value'])}" for name, each in headline["variants"].items())
    title = f"{headline['label']} of each variant, in percent, with 95 % intervals: {told}"
    return _bars([("", headline["variants"])], title, shorts)


def part_bars(slicing: Slicing, label: str, shorts: Mapping[str, str]) -> str:
    """The same bars for each part of the examples; a part whose headline is another score than ``label`` says so."""
    groups = []
    for part in slicing["slices"]:
        headline = part["headline"]
        other = "" if headline["label"] == label else f", {headline['label']}"
        variants = {name: found for name, found in headline["variants"].items() if name in IN_PARTS}
        name = part["name"] if len(part["name"]) <= _LONGEST_NAME else f"{part['name'][: _LONGEST_NAME - 1]}…"
        groups.append((f"{name} (n = {headline['examples']:,}{other})", variants))
    title = f"{label} per {slicing['by']}, in percent, with 95 % intervals"
    return _bars(groups, title, shorts)


def _bars(groups: Sequence[tuple[str, Mapping[str, Estimate]]], title: str, shorts: Mapping[str, str]) -> str:
    """Horizontal bars on an axis from 0 to 100, group under group; a heading of a group may be empty."""
    parts: list[str] = []
    y = 4.0
    for heading, estimates in groups:
        if heading:
            parts.append(svg.text(0, y + 12, heading, "heading"))
            y += _HEADING_STEP
        bottom = y + _BAR_STEP * len(estimates)
        parts += _grid(y - 2, bottom)
        for row, (variant, estimate) in enumerate(estimates.items()):
            parts += _bar(y + 4 + row * _BAR_STEP, variant, shorts[variant], estimate)
        y = bottom + (10 if heading else 0)
    ticks = [svg.text(_percent_x(percent), bottom + 17, f"{percent}", "tick", anchor="middle") for percent in _PERCENTS]
    return svg.figure(bottom + 24, title, [*parts, *ticks])


def _grid(top: float, bottom: float) -> Iterator[str]:
    for percent in _PERCENTS:
        yield svg.line(_percent_x(percent), top, _percent_x(percent), bottom, "grid" if percent else "axis")


def _percent_x(percent: float) -> float:
    return _BAR_LEFT + (_BAR_RIGHT - _BAR_LEFT) * percent / 100


def _bar(y: float, variant: str, label: str, estimate: Estimate) -> Iterator[str]:
    middle = y + _BAR_THICKNESS / 2
    end = _percent_x(estimate["value"])
    yield svg.text(_BAR_LEFT - 8, middle + 4.5, label, anchor="end")
    size = f'width="{end - _BAR_LEFT:.1f}" height="{_BAR_THICKNESS}"'
    yield f'<rect class="bar {escape(variant)}" x="{_BAR_LEFT}" y="{y:g}" {size}/>'
    if estimate["low"] is not None and estimate["high"] is not None:
        low, high = _percent_x(estimate["low"]), _percent_x(estimate["high"])
        ends = "".join(f"M{x:.1f} {middle - 4:g}v8" for x in (low, high))
        yield f'<path class="whisker" d="M{low:.1f} {middle:g}H{high:.1f}{ends}"/>'
    # Values stand in a column of their own: beside the bars they would run into the whiskers.
    yield svg.text(_BAR_RIGHT + 44, middle + 4.5, number(estimate["value"]), anchor="end")
    yield svg.text(_BAR_RIGHT + 52, middle + 4.5, interval(estimate).replace(" to ", "–"), "interval")
