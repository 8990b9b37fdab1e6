"""The report's figures as SVG text, drawn by hand; see `page.svg`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from medvl_jobs.page import svg
from medvl_jobs.page.look import theme
from medvl_jobs.page.words import number
from medvl_jobs.report.shape import Estimate, Headline, Report, Slice, Training
from medvl_jobs.report.words import interval
from medvl_jobs.settings.eval import Variant

_BAR_LEFT, _BAR_RIGHT = 72, 316
_BAR_THICKNESS, _BAR_STEP, _HEADING_STEP = 14, 27, 26
_PERCENTS = range(0, 101, 25)
_SHORT_LABELS = {
    Variant.BASE: "Base",
    Variant.TUNED: "Tuned",
    Variant.TUNED_SHUFFLED: "Shuffled",
    Variant.TUNED_BLANK: "Blank",
    Variant.TEMPLATE: "Template",
    Variant.BASE_FORMATTED: "Format",
}

_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_BOTTOM = 46, 450, 12, 200


def draw(report: Report) -> dict[str, str]:
    """All figures that this report has the numbers for, by name."""
    figures = {"looking": variant_bars(report["overall"]["headline"])}
    if report["modalities"]:
        figures["modalities"] = modality_bars(report["modalities"])
    if report["training"] and report["training"]["steps"]:
        figures["loss"] = loss_curve(report["training"])
    return figures


def standalone(drawn: str) -> str:
    """The figure as a file of its own: with the colours inside, and a background."""
    style = f"<style>{theme()} svg {{ background: var(--paper); }}</style>"
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + drawn.replace("</title>", f"</title>{style}", 1) + "\n"


def variant_bars(headline: Headline) -> str:
    """One bar per variant with its 95 % interval: base, tuned, and what tuned scores without looking."""
    title = f"{headline['label']} of each variant, in percent, with 95 % intervals"
    return _bars([("", headline["variants"])], title)


def modality_bars(slices: Sequence[Slice]) -> str:
    """The same bars per modality."""
    groups = [(f"{each['name']} (n = {each['examples']:,})", each["headline"]["variants"]) for each in slices]
    return _bars(groups, f"{slices[0]['headline']['label']} per modality, in percent, with 95 % intervals")


def _bars(groups: Sequence[tuple[str, dict[str, Estimate]]], title: str) -> str:
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
            parts += _bar(y + 4 + row * _BAR_STEP, variant, estimate)
        y = bottom + (10 if heading else 0)
    ticks = [svg.text(_percent_x(percent), bottom + 17, f"{percent}", "tick", anchor="middle") for percent in _PERCENTS]
    return svg.figure(bottom + 24, title, [*parts, *ticks])


def _grid(top: float, bottom: float) -> Iterator[str]:
    for percent in _PERCENTS:
        yield svg.line(_percent_x(percent), top, _percent_x(percent), bottom, "grid" if percent else "axis")


def _percent_x(percent: float) -> float:
    return _BAR_LEFT + (_BAR_RIGHT - _BAR_LEFT) * percent / 100


def _bar(y: float, variant: str, estimate: Estimate) -> Iterator[str]:
    middle = y + _BAR_THICKNESS / 2
    end = _percent_x(estimate["value"])
    yield svg.text(_BAR_LEFT - 8, middle + 4.5, _SHORT_LABELS.get(Variant(variant), variant), anchor="end")
    size = f'width="{end - _BAR_LEFT:.1f}" height="{_BAR_THICKNESS}"'
    yield f'<rect class="bar {escape(variant)}" x="{_BAR_LEFT}" y="{y:g}" {size}/>'
    if estimate["low"] is not None and estimate["high"] is not None:
        low, high = _percent_x(estimate["low"]), _percent_x(estimate["high"])
        ends = "".join(f"M{x:.1f} {middle - 4:g}v8" for x in (low, high))
        yield f'<path class="whisker" d="M{low:.1f} {middle:g}H{high:.1f}{ends}"/>'
    # Values stand in a column of their own: beside the bars they would run into the whiskers.
    yield svg.text(_BAR_RIGHT + 44, middle + 4.5, number(estimate["value"]), anchor="end")
    yield svg.text(_BAR_RIGHT + 52, middle + 4.5, interval(estimate).replace(" to ", "–"), "interval")


def loss_curve(training: Training) -> str:
    """Loss per log step, raw and smoothed, over optimiser steps."""
    steps, losses = training["steps"], training["loss"]
    last, top = max(steps), max(losses)
    y_ticks, x_ticks = svg.ticks(top), [tick for tick in svg.ticks(last) if tick <= last]
    digits = max(0, -math.floor(math.log10(y_ticks[1] + 1e-12)))

    def x(step: float) -> float:
        return _PLOT_LEFT + (_PLOT_RIGHT - _PLOT_LEFT) * step / last

    def y(loss: float) -> float:
        return _PLOT_BOTTOM - (_PLOT_BOTTOM - _PLOT_TOP) * loss / y_ticks[-1]

    def path(values: Sequence[float]) -> str:
        return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in zip(steps, values, strict=True))

    parts = [f'<path class="raw" d="{path(losses)}"/>', f'<path class="smooth" d="{path(training["smoothed"])}"/>']
    for tick in y_ticks:
        parts.insert(0, svg.line(_PLOT_LEFT, y(tick), _PLOT_RIGHT, y(tick), "axis" if tick == 0 else "grid"))
        parts.append(svg.text(_PLOT_LEFT - 8, y(tick) + 4, f"{tick:.{digits}f}", "tick", anchor="end"))
    parts += [svg.text(x(tick), _PLOT_BOTTOM + 18, f"{tick:,g}", "tick", anchor="middle") for tick in x_ticks]
    center = (_PLOT_LEFT + _PLOT_RIGHT) / 2
    parts.append(svg.text(center, _PLOT_BOTTOM + 36, "optimiser step", "axis-title", anchor="middle"))
    ends = f"{losses[0]:.3f} at first, {losses[-1]:.3f} at last"
    title = f"Training loss in nats per answer token over {last:,} optimiser steps: {ends}"
    return svg.figure(_PLOT_BOTTOM + 44, title, parts)
