"""The dataset in the form of the tutorial, for LLaMA-Factory: images as files, conversations as JSON.

    llamafactory/
      images/<encoded id>.png
      mllm_train_data.json  mllm_val_data.json
      dataset_info.json                        what LLaMA-Factory looks the two names up in

LLaMA-Factory checks little and fails late, so the rules are kept here: user and assistant alternate, there are as many
``<image>`` as files, and ``dataset_info.json`` has all four tags, because with one of them given the others have no
default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.rows import Example
from medvl_jobs.prep.split import SIDES, Side
from medvl_jobs.storage.publish import Publication

FOLDER = "llamafactory"
PLACEHOLDER = "<image>"
_MEDIA_PLACEHOLDERS = (PLACEHOLDER, "<video>", "<audio>")


def check_question(question: str) -> None:
    """Refuse a question that LLaMA-Factory would take for more images than there are. Raises `SettingsError`."""
    if any(placeholder in question for placeholder in _MEDIA_PLACEHOLDERS):
        what = f"the question holds {', '.join(p for p in _MEDIA_PLACEHOLDERS if p in question)}"
        remedy = "leave it out: each question is asked of one image, and the placeholder is put in front of it"
        raise SettingsError(what, where=f"prompt.question={question}", remedy=remedy)


def conversation(example: Example, question: str) -> dict[str, Any]:
    """One row of ``mllm_…_data.json``; the image's path is relative to the file's folder."""
    return {
        "conversations": [
            {"from": "user", "value": PLACEHOLDER + question},
            {"from": "assistant", "value": example.caption},
        ],
        "images": [f"images/{example.file_name}"],
    }


def dataset_info() -> dict[str, Any]:
    """Both datasets, with the names of every column and tag."""
    return {
        _dataset(side): {
            "file_name": f"{_dataset(side)}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
            "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"},
        }
        for side in SIDES
    }


class LlamaFactoryExport:
    """Writes the export as examples come; only the open JSON files grow, and they grow on disk."""

    def __init__(self, publication: Publication, scratch: Path, question: str) -> None:
        """``question`` goes before every caption. Raises `SettingsError`."""
        check_question(question)
        self._publication, self._question = publication, question
        self._files = {side: _JsonArray(scratch / f"{_dataset(side)}.json") for side in SIDES}

    def add(self, example: Example, side: Side) -> None:
        """Store the image and append the conversation."""
        self._publication.write_bytes(f"{FOLDER}/images/{example.file_name}", example.image)
        self._files[side].append(conversation(example, self._question))

    def finish(self) -> None:
        """Store the JSON files."""
        for side, file in self._files.items():
            file.finish()
            self._publication.upload(file.path, f"{FOLDER}/{_dataset(side)}.json", rows=file.rows)
        info = json.dumps(dataset_info(), indent=2) + "\n"
        self._publication.write_bytes(f"{FOLDER}/dataset_info.json", info.encode())


class _JsonArray:
    """A JSON array in a file, one element a line."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        path.write_text("[", encoding="utf-8")

    def append(self, value: dict[str, Any]) -> None:
        # Opened for each line, so that nothing has to be closed when a stage ends in the middle.
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write((",\n" if self.rows else "\n") + json.dumps(value, ensure_ascii=False))
        self.rows += 1

    def finish(self) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("\n]\n")


def _dataset(side: Side) -> str:
    return f"mllm_{side}_data"
