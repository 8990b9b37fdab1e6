"""The dataset in the form of the tutorial, for LLaMA-Factory: images as files, conversations as JSON.

    llamafactory/
      images/<part>/<encoded id>.png           written with the part; the rest when the split is known
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

from medvl_jobs.contracts import layout
from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.captions import command_in
from medvl_jobs.prep.split import SIDES, Side
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.storage.publish import Publication

PLACEHOLDER = "<image>"


def check_prompt(prompt: PromptSettings) -> None:
    """Refuse a prompt that LLaMA-Factory would not take for text. Raises `SettingsError`.

    The answers' prefix is not exported: LLaMA-Factory's templates for reasoning models put it there themselves.
    """
    for name, text in (("question", prompt.question), ("system", prompt.system)):
        if found := command_in(text or ""):
            what = f"the {name} text holds {found[0]!r}, which is read as a command"
            remedy = "leave it out: each question is asked of one image, and the placeholder is put in front of it"
            raise SettingsError(what, where=f"prompt.{name}={text}", remedy=remedy)


def conversation(caption: str, image: str, prompt: PromptSettings) -> dict[str, Any]:
    """One row of ``mllm_…_data.json``; the image's path is relative to the file's folder."""
    return {
        **({"system": prompt.system} if prompt.system else {}),
        "conversations": [
            {"from": "user", "value": PLACEHOLDER + prompt.question},
            {"from": "assistant", "value": caption},
        ],
        "images": [f"images/{image}"],
    }


def dataset_info(prompt: PromptSettings) -> dict[str, Any]:
    """Both datasets, with the names of every column and tag."""
    system = {"system": "system"} if prompt.system else {}
    return {
        _dataset(side): {
            "file_name": f"{_dataset(side)}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images", **system},
            "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"},
        }
        for side in SIDES
    }


class Conversations:
    """The JSON files, written as rows come; they grow on disk."""

    def __init__(self, scratch: Path, prompt: PromptSettings) -> None:
        """The ``prompt`` goes before every caption. Raises `SettingsError`."""
        check_prompt(prompt)
        self._prompt = prompt
        self._files = {side: _JsonArray(scratch / f"{_dataset(side)}.json") for side in SIDES}

    def add(self, caption: str, image: str, side: Side) -> None:
        """Append a conversation about ``image``, a path under ``images/``."""
        self._files[side].append(conversation(caption, image, self._prompt))

    def publish(self, publication: Publication) -> None:
        """Store the files and their entries in ``dataset_info.json``."""
        for side, file in self._files.items():
            file.finish()
            publication.upload(file.path, f"{layout.EXPORT}/{_dataset(side)}.json", rows=file.rows)
        info = json.dumps(dataset_info(self._prompt), indent=2) + "\n"
        publication.write_bytes(f"{layout.EXPORT}/dataset_info.json", info.encode())


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
