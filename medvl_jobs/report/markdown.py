"""``report.md``: the same report for a pull request, short, and where there is neither style nor figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvl_jobs.page.words import number, quantity
from medvl_jobs.report.metrics import SUMMARY, describe
from medvl_jobs.report.shape import Gate, MetricRow, Report
from medvl_jobs.report.shape_making import Changes
from medvl_jobs.report.words import duration, exact, interval, judgement, signed, value_text
from medvl_jobs.settings.eval import Variant

MOST_CHANGES = 8
"""Settings that differ from the run before; the page has all of them."""


def render(report: Report) -> str:
    """The report as GitHub's Markdown."""
    run = report["kind"] == "run"
    sections = [
        f"# {report['name']}: {'base against tuned' if run else 'run B against run A'}",
        f"**{escape(report['verdict']['sentence'])}**",
        "Research use only: not a medical device, not for diagnosis.",
        _gates(report["gates"]),
        _caveats(report),
        _scores(report),
        _legend(report),
        _parts(report),
        _changes(report["lineage"]["changes"]),
        _costs(report),
        _lineage(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: str) -> str:
    """Data as plain words: no table cell ends early, no tag, link or emphasis begins."""
    one_line = " ".join(text.split())
    return "".join("\\" + letter if letter in "\\`*_[]<>|" else letter for letter in one_line)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    """A table whose columns stand right-aligned from ``numbers_from`` on."""
    rule = ["---" if column < numbers_from else "---:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _gates(gates: Sequence[Gate]) -> str:
    outcome = {True: "✅ passed", False: "❌ **missed**", None: "❔ cannot be judged"}
    rows = [
        [
            escape(describe(gate["metric"]).label),
            f"{escape(gate['condition'])}",
            "–" if gate["bound"] is None else exact(gate["bound"]),
            "–" if gate["value"] is None else exact(gate["value"]),
            outcome[gate["passed"]] + (f": {escape(gate['note'])}" if gate["note"] else ""),
        ]
        for gate in gates
    ]
    return _table(["gate", "asked", "that is", "tuned", ""], rows, numbers_from=2) if rows else ""


def _caveats(report: Report) -> str:
    listed = [f"> - {escape(caveat['text'])}" for caveat in report["caveats"]]
    return "\n".join(["> Read with care:", *listed]) if listed else ""


def _scores(report: Report) -> str:
    names = [variant["variant"] for variant in report["variants"]]
    shorts = [
        variant["short"].lower() if report["kind"] == "run" else variant["short"] for variant in report["variants"]
    ]
    head = ["score", *map(escape, shorts), f"{shorts[1]} − {shorts[0]}", "95 % interval"]
    rows = {row["metric"]: row for row in report["overall"]["metrics"]}
    return _table(
        head, [_score(rows[metric], names, report["overall"]["examples"]) for metric in SUMMARY if metric in rows]
    )


def _score(row: MetricRow, names: Sequence[str], examples: int) -> list[str]:
    digits, difference = describe(row["metric"]).decimals, row["difference"]
    change = signed(difference["value"], digits)
    if judgement(difference, row["higher_is_better"]) in {"better", "worse"}:
        change = f"**{change}**"
    label = escape(row["label"]) + {True: " ↑", False: " ↓", None: ""}[row["higher_is_better"]]
    if row["family"] == "thinkless":
        label += " without the think block"
    if row["examples"] != examples:
        label += f" (n = {row['examples']:,})"
    return [label, *(number(row["means"][name], digits) for name in names), change, interval(difference, digits) or "–"]


def _legend(report: Report) -> str:
    whole = report["overall"]
    if report["kind"] == "run":
        shuffled = any(variant["variant"] == Variant.TUNED_SHUFFLED for variant in report["variants"])
        sides = " *Shuffled* is the tuned model shown another example's image." if shuffled else ""
    else:
        told = [f"{each['short']} is the tuned model of {escape(each['label'][3:])}" for each in report["variants"]]
        sides = f" {'; '.join(told)}."
    return (
        f"{quantity(whole['examples'], 'validation image')} in {quantity(whole['groups'], 'group')}, in percent, "
        f"errors per image; 95 % intervals from resampling whole groups.{sides} **Bold**: the interval leaves out "
        "zero. All scores are in `report.json`."
    )


def _parts(report: Report) -> str:
    rows = []
    for slicing in report["slicings"]:
        for part in slicing["slices"]:
            gain, variants = part["headline"]["gain"], part["headline"]["variants"]
            means = [number(variants[name]["value"]) for name in ("base", "tuned")]
            change = signed(gain["value"])
            if judgement(gain, higher_is_better=True) != "open":
                change = f"**{change}**"
            name = f"{slicing['by']}: {escape(part['name'])}, {escape(part['headline']['label'])}"
            rows.append([name, f"{part['headline']['examples']:,}", *means, change, interval(gain) or "–"])
    shorts = [variant["short"] for variant in report["variants"][:2]]
    return _table(["part", "n", *shorts, "difference", "95 % interval"], rows) if rows else ""


def _changes(changes: Changes | None) -> str:
    if changes is None:
        return ""
    listed = [
        f"`{each['setting']}` {escape(value_text(each['before']))} → {escape(value_text(each['after']))}"
        for each in changes["settings"]
    ]
    more = f"; and {len(listed) - MOST_CHANGES} more" if len(listed) > MOST_CHANGES else ""
    return f"Settings that differ from `{changes['against']}`: {'; '.join(listed[:MOST_CHANGES]) or 'none'}{more}."


def _costs(report: Report) -> str:
    costs = report["costs"]
    listed = []
    for each in costs["stages"]:
        speed = (
            f" ({number(each['examples_per_second'], 2)} images/s)" if each["examples_per_second"] is not None else ""
        )
        listed.append(f"{each['stage']} {duration(each['wall_seconds'])}{speed}")
    gpu = f"GPU time {duration(costs['gpu_seconds'])}" if costs["gpu_seconds"] else "no GPU"
    price = costs["price_per_gpu_hour"]
    money = "" if costs["money"] is None else f", {number(costs['money'], 2)} at {price:g} per GPU hour"
    return f"Time: {', '.join(listed)}; together {duration(costs['wall_seconds'])}, {gpu}{money}."


def _lineage(report: Report) -> str:
    stages = ", ".join(f"{each['stage']} `{each['key']}`" for each in report["lineage"]["stages"])
    commits = sorted({each["git_sha"] or "unknown" for each in report["lineage"]["stages"]})
    libraries = ", ".join(f"{name} {version}" for name, version in report["lineage"]["library_versions"].items())
    made = f"Made by {' and '.join(f'`{commit}`' for commit in commits)}"
    return f"Report `{report['key']}` of {stages}. {made}; {libraries or 'libraries unknown'}."
