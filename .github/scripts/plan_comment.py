"""``plan_comment.py FOLDER``: what ``medvl run --dry-run`` said of each experiment, as a comment in Markdown.

``FOLDER/<experiment>.plan`` is the plan; ``FOLDER/<experiment>.error`` is what was said instead of one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

WORDS = {"run": "**runs**", "reuse": "is reused", "unneeded": "is not needed"}
"""The first word of a line of the plan, and what the comment says."""


def comment(plans: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """The comment; an experiment with an error has no plan."""
    if not plans and not errors:
        return "No experiment changes.\n"
    sections = {name: _table(plan) for name, plan in plans.items()}
    sections |= {name: f"There is no plan:\n\n```text\n{said.strip()}\n```" for name, said in errors.items()}
    text = "\n\n".join(f"### {name}\n\n{section}" for name, section in sorted(sections.items()))
    return f"## What a merge would run\n\n{text}\n"


def _table(plan: str) -> str:
    steps = [line.split() for line in plan.splitlines() if line.split(maxsplit=1)[:1] and line.split()[0] in WORDS]
    count = sum(action == "run" for action, *_ in steps)
    rows = [f"| {stage} | {WORDS[action]} | `{prefix}` |" for action, stage, prefix in steps]
    summary = f"{count} of {len(steps)} stages would run." if count else "Nothing would run: the report is there."
    return "\n".join([summary, "", "| stage | | result |", "|---|---|---|", *rows])


def _read(folder: Path, ending: str) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"*.{ending}"))}


if __name__ == "__main__":
    given = Path(sys.argv[1])
    sys.stdout.write(comment(_read(given, "plan"), _read(given, "error")))
