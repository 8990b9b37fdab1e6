"""What the documents name must exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.section import Section

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def settings_paths(section: type[Section] = RunSettings, prefix: str = "") -> set[str]:
    paths = set()
    for name, field in section.model_fields.items():
        paths.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            paths |= settings_paths(field.annotation, f"{prefix}{name}.")
    return paths


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_things_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"`?make ([a-z][a-z-]+)`", text)) <= make_targets()
    named = set(re.findall(r"`((?:storage|model|prompt|prep|train|eval|report)\.[a-z_.]+)(?:=[^`]*)?`", text))
    modules = {name for name in named if (ROOT / "medvl_jobs" / f"{name.split('.')[0]}").is_dir() and is_module(name)}
    assert named - modules <= settings_paths()
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text):
        assert (document.parent / target).exists(), target


def is_module(name: str) -> bool:
    """``eval.facts``, ``train.job.fit``: a dotted module or something in one, not a setting."""
    parts = name.split(".")
    return any(
        (ROOT / "medvl_jobs" / "/".join(parts[:n])).with_suffix(".py").is_file() for n in range(2, len(parts) + 1)
    )


def test_the_readmes_tree_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```text")[-1].split("```")[0]
    folder = ROOT
    for line in tree.strip().splitlines():
        indent, name = re.match(r"( *)([\w./-]+)", line).groups()  # type: ignore[union-attr]
        folder = ROOT if not indent else ROOT / "medvl_jobs"
        assert (folder / name).exists(), line


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {line.split()[1] for line in shown.stdout.splitlines()} == make_targets()
    assert all(len(line.split()) > 2 for line in shown.stdout.splitlines())
