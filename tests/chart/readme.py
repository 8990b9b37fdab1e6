"""Write the tables of charts/medvl/README.md from the comments in values.yaml: ``python tests/chart/readme.py``.

A comment that starts with ``# --`` describes the value below it, whole: what is inside gets no row of its own.
``# @section`` starts a table, and ``# @text`` is said above it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "medvl"
BEGIN, END = "<!-- values: written by tests/chart/readme.py -->", "<!-- end of values -->"


@dataclass(frozen=True)
class Value:
    """One documented value."""

    path: tuple[str, ...]
    default: Any
    text: str
    line: int

    @property
    def name(self) -> str:
        """As ``--set`` takes it."""
        return ".".join(self.path)


def read_values(text: str) -> list[Value]:
    """All values in the order of the file. Raises ``ValueError`` for one without a comment."""
    return list(_walk(yaml.compose(text), (), text.splitlines()))


def _walk(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        here = (*path, key.value)
        if comment := _comment_above(key.start_mark.line, lines):
            yield Value(here, yaml.safe_load(yaml.serialize(value)), comment, key.start_mark.line)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _walk(value, here, lines)
        else:
            raise ValueError(f"{'.'.join(here)} in values.yaml has no comment that starts with '# --'")


def _comment_above(line: int, lines: list[str]) -> str:
    comment: list[str] = []
    for above in reversed(lines[:line]):
        if not (match := re.match(r" *# ?(.*)", above)):
            break
        comment.insert(0, match[1])
        if match[1].startswith("-- "):
            return " ".join(comment).removeprefix("-- ")
    return ""


def tables(text: str) -> str:
    """The values as Markdown, one table for each section."""
    values = read_values(text)
    headings = [(i, line) for i, line in enumerate(text.splitlines()) if line.startswith("# @section ")]
    ends = [line for line, _ in headings[1:]] + [len(text.splitlines())]
    parts = []
    for (start, heading), end in zip(headings, ends, strict=True):
        parts += [f"### {heading.removeprefix('# @section ')}", ""]
        if said := _text_below(text.splitlines()[start + 1 : end]):
            parts += [said, ""]
        parts += ["| value | default | |", "|---|---|---|"]
        parts += [
            f"| `{v.name}` | `{json.dumps(v.default, ensure_ascii=False)}` | {v.text.replace('|', chr(92) + '|')} |"
            for v in values
            if start < v.line < end
        ]
        parts.append("")
    return "\n".join(parts)


def _text_below(lines: list[str]) -> str:
    said: list[str] = []
    for line in lines:
        if not line.startswith("# @text ") and not (said and line.startswith("# ")):
            break
        said.append(line.removeprefix("# ").removeprefix("@text "))
    return " ".join(said)


def render(readme: str, values: str) -> str:
    """The README with the tables between its two marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(values)}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    page = CHART / "README.md"
    page.write_text(render(page.read_text("utf-8"), (CHART / "values.yaml").read_text("utf-8")), "utf-8")
