"""LLaMA-Factory's rules for a dataset folder, as a loader that stops wherever LLaMA-Factory would stop, skip or guess.

Read in releases 0.9.5 and 0.9.6.dev0 (commit ff6d4d1), where all of this is the same:

* `data/parser.py`: how a name is looked up in ``dataset_info.json``, and which defaults get lost;
* `data/loader.py`: which file is read; its "File types should be identical" is about a ``file_name`` that is a
  directory of *data* files, so the images next to them may be JPEG and PNG;
* `data/converter.py`: roles, their order, and where an image's path starts;
* `data/processor/supervised.py`: an example is an odd number of messages and one answer;
* `data/mm_plugin.py`: ``<image>``, ``<video>`` and ``<audio>`` are counted, and images opened with Pillow;
* `data/template.py` and `data/formatter.py`: what in a text would be taken for more than text.

What stands in quotes is LLaMA-Factory's own message. `tests/unit/test_prep_llamafactory.py` has a fault for each rule.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

FILE_TYPES = {"arrow": "arrow", "csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "text"}
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")
COLUMNS = ("messages", "images")
KNOWN_KEYS = {"file_name", "formatting", "columns", "tags"}
MAX_ASPECT = 200
_COMMANDS = re.compile(r"<\|[^|<>\s]+\|>|</?(?:think|tool_call|tool_response)>")


@dataclass(frozen=True)
class LoadedExample:
    """What LLaMA-Factory makes of a row."""

    contents: tuple[str, ...]
    """User and assistant in turn."""
    images: tuple[Path, ...]
    system: str = ""


def load(folder: Path, name: str) -> list[LoadedExample]:
    """The examples of dataset ``name``, one for each row. Raises `AssertionError` with the row and the rule."""
    entry = _entry(folder, name)
    rows = _rows(folder, entry["file_name"])
    assert rows, f"{name}: the file has no rows: 'corresponds to no data'"
    return [_example(row, entry, folder, f"{name}[{number}]") for number, row in enumerate(rows)]


def _entry(folder: Path, name: str) -> dict[str, Any]:
    info = folder / "dataset_info.json"
    assert info.is_file(), f"{info} is missing"
    assert info.read_bytes().isascii(), f"{info} is opened in the encoding of the machine: only ASCII is safe"
    entries = json.loads(info.read_text(encoding="ascii"))
    assert name in entries, f"dataset {name} is undefined in {info}"
    entry: dict[str, Any] = entries[name]
    other = entry.keys() - KNOWN_KEYS
    assert not other, f"{name}: {sorted(other)} would load from elsewhere, or other rows"
    assert entry.get("formatting") == "sharegpt", f"{name}: formatting is not sharegpt (the default is alpaca)"
    for section, keys in (("columns", COLUMNS), ("tags", TAGS)):
        lost = [key for key in keys if not entry.get(section, {}).get(key)]
        assert not lost, f"{name}: {section} without {lost}: a key that is left out has no default but None"
    return entry


def _rows(folder: Path, file_name: str) -> list[dict[str, Any]]:
    """Of a file, or of all files of a directory."""
    path = folder / file_name
    assert path.exists(), f"File {path} not found"
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    types = {FILE_TYPES.get(file.suffix[1:], f"unknown type '{file.suffix}'") for file in files}
    assert types == {"json"}, f"{path}: data files of one type, JSON, are needed, not {sorted(types)}"
    rows = [row for file in files for row in _json_array(file)]
    columns = {tuple(row) for row in rows}
    assert len(columns) <= 1, f"{path}: rows differ in their columns: {sorted(columns)}"
    return rows


def _json_array(file: Path) -> list[dict[str, Any]]:
    """One array, as our files are; LLaMA-Factory would take a row a line as well."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AssertionError(f"{file} is not JSON in UTF-8: {error}") from error
    assert isinstance(rows, list), f"{file} is not an array"
    return rows


def _example(row: dict[str, Any], entry: dict[str, Any], folder: Path, where: str) -> LoadedExample:
    messages, images = (row.get(entry["columns"][column]) for column in COLUMNS)
    assert isinstance(messages, list), f"{where}: no list of messages"
    assert isinstance(images, list), f"{where}: no list of images"
    assert len(messages) > 0, f"{where}: no messages: 'Dropped invalid example'"
    assert len(messages) % 2 == 0, f"{where}: {len(messages)} messages: 'Invalid message count', and the row is skipped"
    contents = tuple(_content(message, number, entry["tags"], where) for number, message in enumerate(messages))
    for placeholder, count in (("<image>", len(images)), ("<video>", 0), ("<audio>", 0)):
        found = sum(content.count(placeholder) for content in contents)
        assert found == count, f"{where}: {found} times {placeholder} for {count} files: ValueError"
    column = entry["columns"].get("system")
    system = row.get(column) if column else ""
    assert isinstance(system, str), f"{where}: the system column holds {system!r}"
    return LoadedExample(contents, tuple(_image(folder, image, where) for image in images), system)


def _content(message: dict[str, Any], number: int, tags: dict[str, str], where: str) -> str:
    side = "assistant_tag" if number % 2 else "user_tag"
    role, content = message.get(tags["role_tag"]), message.get(tags["content_tag"])
    assert role == tags[side], f"{where}: message {number} is of {role!r}: 'Invalid role tag', and the row is skipped"
    assert isinstance(content, str), f"{where}: message {number} is not text"
    assert content.strip(), f"{where}: message {number} is empty, and would be trained on"
    command = _COMMANDS.search(content)
    assert not command, f"{where}: {command and command[0]} in message {number} is a token to the template"
    assert number % 2 or "{{idx}}" not in content, f"{where}: {{{{idx}}}} in message {number} is filled in"
    return content


def _image(folder: Path, image: object, where: str) -> Path:
    assert isinstance(image, str), f"{where}: {image!r} is not a path"
    inside = not image.startswith("/") and ".." not in PurePosixPath(image).parts
    assert inside, f"{where}: {image} leads out of the folder, and is lost when that is copied"
    path = folder / image
    assert path.is_file(), f"{where}: {image} is not in the dataset's folder: 'Use original path', which is none"
    try:
        with Image.open(path) as opened:
            assert opened.mode in ("RGB", "L"), f"{where}: {image} is {opened.mode}: not all of it may survive in RGB"
            width, height = opened.convert("RGB").size
    except (OSError, SyntaxError, ValueError) as error:
        raise AssertionError(f"{where}: {image} does not open: {error}") from error
    aspect = max(width, height) / min(width, height)
    assert aspect <= MAX_ASPECT, f"{where}: {image} is {width} x {height}, and would be squeezed"
    return path
