"""Figures with two axes as SVG text: loss, distribution of scores, length of answers; see `page.svg`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medvl_jobs.page import svg
from medvl_jobs.report.shape import Distribution, LengthBin
from medvl_jobs.report.shape_making import Training

SIDES = ("base", "tuned")
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 446, 12, 200


@dataclass(frozen=True)
class Axes:
    """A plot from 0 to ``x_top`` and ``y_top``, with its grid."""

    x_top: float
    y_top: float
    x_title: str
    top: float = _TOP
    bottom: float = _BOTTOM

    @property
    def y_ticks(self) -> list[float]:
        """Round numbers; the last one is where the axis ends."""
        return svg.ticks(self.y_top)

    def x(self, value: float) -> float:
        """Where a value of the horizontal axis lies."""
        return _LEFT + (_RIGHT - _LEFT) * value / self.x_top

    def y(self, value: float) -> float:
        """Where a value of the vertical axis lies."""
        return self.bottom - (self.bottom - self.top) * value / self.y_ticks[-1]

    def grid(self) -> Iterator[str]:
        """Lines, behind everything else."""
        for tick in self.y_ticks:
            yield svg.line(_LEFT, self.y(tick), _RIGHT, self.y(tick), "axis" if tick == 0 else "grid")

    def labels(self) -> Iterator[str]:
        """Numbers and the title of the horizontal axis."""
        digits = max(0, -math.floor(math.log10(self.y_ticks[1] + 1e-12)))
        for tick in self.y_ticks:
            yield svg.text(_LEFT - 8, self.y(tick) + 4, f"{tick:,.{digits}f}", "tick", anchor="end")
        for tick in svg.ticks(self.x_top):
            if tick <= self.x_top:
                yield svg.text(self.x(tick), self.bottom + 18, f"{tick:,g}", "tick", anchor="middle")
        yield svg.text((_LEFT + _RIGHT) / 2, self.bottom + 36, self.x_title, "axis-title", anchor="middle")

    @property
    def height(self) -> float:
        """Of the whole figure."""
        return self.bottom + 44


def loss_curves(trainings: Sequence[Training], labels: Mapping[str, str]) -> str:
    """Loss per log step, raw and smoothed, over optimiser steps; of several trainings with their names."""
    several = len(trainings) > 1
    last, highest = max(max(each["steps"]) for each in trainings), max(max(each["loss"]) for each in trainings)
    axes = Axes(last, highest, "optimiser step", *((34, 222) if several else ()))

    def path(steps: Sequence[int], values: Sequence[float]) -> str:
        points = zip(steps, values, strict=True)
        return "M" + "L".join(f"{axes.x(step):.1f} {axes.y(value):.1f}" for step, value in points)

    curves, told, x = [], [], float(_LEFT)
    for each in trainings:
        side, losses = (each["variant"] if several else ""), each["loss"]
        curves.append(f'<path class="raw {side}" d="{path(each["steps"], losses)}"/>')
        curves.append(f'<path class="smooth {side}" d="{path(each["steps"], each["smoothed"])}"/>')
        name = f"{labels[each['variant']]}, " if several else ""
        told.append(f"{name}{losses[0]:.3f} at first, {losses[-1]:.3f} at last")
        if several:
            label = labels[each["variant"]]
            curves += [f'<path class="smooth {side}" d="M{x:.1f} 10h22"/>', svg.text(x + 28, 14, label)]
            x += 44 + 7.5 * len(label)
    title = f"Training loss in nats per answer token over {last:,} optimiser steps: {'; '.join(told)}"
    return svg.figure(axes.height, title, [*axes.grid(), *curves, *axes.labels()])


def histograms(found: Distribution, labels: Mapping[str, str]) -> str:
    """How a score is spread: one histogram above the other, on one scale."""
    shares = {side: _percents(found["counts"][side]) for side in SIDES}
    highest = max(max(each) for each in shares.values())
    parts: list[str] = []
    top = 22.0
    for side in SIDES:
        axes = Axes(found["edges"][-1], highest, "", top, top + 84)
        ticks = [0.0, axes.y_ticks[-1]]
        parts += [svg.line(_LEFT, axes.y(t), _RIGHT, axes.y(t), "grid" if t else "axis") for t in ticks]
        parts += [svg.text(_LEFT - 8, axes.y(t) + 4, f"{t:g}", "tick", anchor="end") for t in ticks]
        parts.append(svg.text(_LEFT, top - 7, labels[side], "heading"))
        edges = found["edges"]
        for low, high, share in zip(edges, edges[1:], shares[side], strict=False):
            if share:
                size = f'width="{axes.x(high) - axes.x(low) - 2:.1f}" height="{axes.bottom - axes.y(share):.1f}"'
                parts.append(f'<rect class="bar {side}" x="{axes.x(low) + 1:.1f}" y="{axes.y(share):.1f}" {size}/>')
        top += 84 + 34
    bottom = top - 34
    parts += [svg.text(axes.x(tick), bottom + 18, f"{tick}", "tick", anchor="middle") for tick in range(0, 101, 25)]
    parts.append(svg.text((_LEFT + _RIGHT) / 2, bottom + 36, found["label"], "axis-title", anchor="middle"))
    medians = ", ".join(f"{labels[side]} most often {_mode(found, side)}" for side in SIDES)
    return svg.figure(bottom + 44, f"Share of the examples, in percent, by {found['label']}: {medians}", parts)


def _percents(counts: Sequence[int]) -> list[float]:
    return [100 * count / max(1, sum(counts)) for count in counts]


def _mode(found: Distribution, side: str) -> str:
    counts = found["counts"][side]
    number = counts.index(max(counts))
    return f"{found['edges'][number]:g} to {found['edges'][number + 1]:g}"


def length_curves(bins: Sequence[LengthBin], labels: Mapping[str, str]) -> str:
    """Words of the answers over words of the references: medians with quartiles, beside equal length."""
    longest = max(each["median"] for each in bins) * 1.08
    highest = max(longest, *(each["answers"][side]["high"] for each in bins for side in SIDES), 1)
    axes = Axes(max(longest, 1), highest, "words of the reference", top=34, bottom=224)
    equal = f"M{axes.x(0):.1f} {axes.y(0):.1f}L{axes.x(axes.x_top):.1f} {axes.y(axes.x_top):.1f}"
    parts = [*axes.grid(), f'<path class="equal" d="{equal}"/>']
    for side, shift in zip(SIDES, (-3, 3), strict=True):
        parts += _curve(bins, side, axes, shift)
    parts += axes.labels()
    x = float(_LEFT)
    for side in SIDES:
        parts += [_point(side, x + 5, 10), svg.text(x + 16, 14, labels[side])]
        x += 30 + 7.5 * len(labels[side])
    parts += [f'<path class="equal" d="M{x:.1f} 10h22"/>', svg.text(x + 28, 14, "as long as the reference")]
    ends = bins[len(bins) // 2]
    about = ", ".join(f"{labels[side]} {ends['answers'][side]['median']:g}" for side in SIDES)
    title = f"Words of the answers by words of the references: at {ends['median']:g} words {about}"
    return svg.figure(axes.height, title, parts)


def _curve(bins: Sequence[LengthBin], side: str, axes: Axes, shift: float) -> Iterator[str]:
    where = [(axes.x(each["median"]) + shift, each["answers"][side]) for each in bins]
    line = "L".join(f"{x:.1f} {axes.y(said['median']):.1f}" for x, said in where)
    yield f'<path class="median {side}" d="M{line}"/>'
    for x, said in where:
        yield f'<path class="spread {side}" d="M{x:.1f} {axes.y(said["low"]):.1f}V{axes.y(said["high"]):.1f}"/>'
        yield _point(side, x, axes.y(said["median"]))


def _point(side: str, x: float, y: float) -> str:
    """A square for base, a diamond for tuned: not told apart by colour alone."""
    shape = (
        f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z" if side == "base" else f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
    )
    return f'<path class="point {side}" d="{shape}"/>'
