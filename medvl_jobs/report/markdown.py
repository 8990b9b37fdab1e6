"""``report.md``: the same report for a pull request, where there is neither style nor figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvl_jobs.page.words import number, quantity
from medvl_jobs.report.page import RUNTIME_KEYS, decimals, judgement
from medvl_jobs.report.shape import MetricRow, Report, Slice
from medvl_jobs.report.words import duration, interval, memory, signed

_SHORT = {"base": "base", "tuned": "tuned", "tuned-shuffled": "shuffled"}


def render(report: Report) -> str:
    """The report as GitHub's Markdown."""
    sections = [
        f"# {report['name']}: base against tuned",
        f"**{escape(report['verdict']['sentence'])}**",
        "Research use only: not a medical device, not for diagnosis.",
        _caveats(report),
        "## Scores",
        _legend(report["overall"]),
        _scores(report, report["overall"]["metrics"]),
        *_modalities(report),
        "## Time and cost",
        _costs(report),
        _speed(report),
        "## Lineage",
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


def _legend(whole: Slice) -> str:
    return (
        f"{quantity(whole['examples'], 'validation image')} in {quantity(whole['groups'], 'group')}, in percent unless "
        "said otherwise; 95 % intervals from resampling whole groups; ↑ higher is better, ↓ lower. *Shuffled* is the "
        "tuned model shown another example's image. **Bold**: the interval leaves out zero."
    )


def _caveats(report: Report) -> str:
    listed = [f"> - {escape(caveat['text'])}" for caveat in report["caveats"]]
    return "\n".join(["> Read with care:", *listed]) if listed else ""


def _names(report: Report) -> list[str]:
    return [variant["variant"] for variant in report["variants"]]


def _scores(report: Report, rows: Sequence[MetricRow]) -> str:
    names = _names(report)
    head = ["score", *(_SHORT[name] for name in names), "tuned − base", "95 % interval"]
    return _table(head, [_score(row, names) for row in rows])


def _score(row: MetricRow, names: Sequence[str]) -> list[str]:
    digits, difference = decimals(row), row["difference"]
    change = signed(difference["value"], digits)
    if judgement(difference, row["higher_is_better"]) != "open":
        change = f"**{change}**"
    label = f"{escape(row['label'])} {'↑' if row['higher_is_better'] else '↓'}"
    return [label, *(number(row["means"][name], digits) for name in names), change, interval(difference, digits) or "–"]


def _modalities(report: Report) -> list[str]:
    parts = ["## Per modality"] if report["modalities"] else []
    for each in report["modalities"]:
        title = f"{escape(each['name'])}: {quantity(each['examples'], 'image')} in {quantity(each['groups'], 'group')}"
        parts += [title, _scores(report, each["metrics"])]
    return parts


def _costs(report: Report) -> str:
    rows = [
        [
            cost["stage"],
            duration(cost["wall_seconds"]),
            duration(cost["gpu_seconds"]) if cost["gpu_seconds"] else "none",
            memory(cost["peak_memory_bytes"]),
        ]
        for cost in report["costs"]
    ]
    return _table(["stage", "time", "GPU time", "peak memory"], rows)


def _speed(report: Report) -> str:
    results = [variant["results"] for variant in report["variants"]]
    rows = [
        [f"`{key}`", *(number(each[key], digits) if key in each else "–" for each in results)]
        for key, _, digits in RUNTIME_KEYS
    ]
    return _table(["LLaMA-Factory's key", *(_SHORT[name] for name in _names(report))], rows)


def _lineage(report: Report) -> str:
    rows = [
        [each["stage"], f"`{each['key']}`", each["code_version"], f"`{each['git_sha']}`" if each["git_sha"] else "–"]
        for each in report["lineage"]["stages"]
    ]
    libraries = ", ".join(f"{name} {version}" for name, version in report["lineage"]["library_versions"].items())
    table = _table(["stage", "key", "medvl", "commit"], rows, numbers_from=4)
    return f"{table}\n\nReport `{report['key']}`. Libraries: {libraries or 'unknown'}."
