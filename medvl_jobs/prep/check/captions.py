"""What only the dataset check says of captions: tokens, languages, openings. Of a sample, for it takes longer.

Figures from some thousand rows are as good as those from 25 million, and the sample is the same wherever it is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.errors import DataError
from medvl_jobs.prep.card import by_count, summary
from medvl_jobs.settings.model import ModelSettings

SAMPLE_ROWS = 5000
TOKENS_PER_WORD = 1.65
"""Of Qwen3's tokenizer on medical English; other languages without spaces have few "words" of many tokens."""
TOKEN_EDGES = (8, 16, 32, 64, 96, 128, 192, 256, 512)
"""Upper ends of the histogram's bins."""
OPENING_WORDS = 6
_OPENINGS = 5
_OPENING_CHARACTERS = 80
"""Chinese has no spaces, so that six words may be a whole caption."""


def drawn(lots: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """[S] places of the sample, in the order of the source: of the rows that are kept, those with the smallest lots.

    ``lots``: [N] numbers that follow from the ids, so that the same rows are drawn in whatever order they come.
    """
    rows = np.flatnonzero(kept)
    return np.sort(rows[np.argsort(lots[rows], kind="stable")[:SAMPLE_ROWS]])


def tokenizer_file(model: ModelSettings) -> Path | None:
    """The tokenizer of a model in a local folder. A hub's is not fetched: the check needs no network."""
    path = Path(model.path) / "tokenizer.json"
    return path if path.is_file() else None


def describe(captions: Sequence[str], languages: Sequence[str], tokenizer: Path | None) -> dict[str, Any]:
    """What the card's ``captions`` gain. ``languages``: of each caption."""
    return {
        "tokens": _tokens(captions, tokenizer),
        "languages": {"rows": len(captions), "found": dict(by_count(Counter(languages)))},
        "openings": _openings(captions),
    }


def _tokens(captions: Sequence[str], tokenizer: Path | None) -> dict[str, Any]:
    if tokenizer is None:
        counts = [round(TOKENS_PER_WORD * len(caption.split())) for caption in captions]
        how: dict[str, Any] = {"exact": False, "tokens_per_word": TOKENS_PER_WORD}
    else:
        counts = _counted(captions, tokenizer)
        how = {"exact": True, "tokenizer": f"sha256:{sha256_file(tokenizer)}"}
    return {"rows": len(captions), **how, **summary(Counter(counts), TOKEN_EDGES)}


def _counted(captions: Sequence[str], tokenizer: Path) -> list[int]:
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # it raises nothing more specific
        remedy = "copy the model's folder again, or point model.path to another"
        raise DataError(f"the tokenizer cannot be read: {error}", where=str(tokenizer), remedy=remedy) from error
    return [len(each.ids) for each in loaded.encode_batch(list(captions), add_special_tokens=False)]


def _openings(captions: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent first words: that all captions begin alike is what a template looks like."""
    found = Counter(" ".join(caption.split(maxsplit=OPENING_WORDS)[:OPENING_WORDS]) for caption in captions)
    top = by_count(found)[:_OPENINGS]
    return [{"words": _cut(words), "rows": rows, "share": round(rows / len(captions), 4)} for words, rows in top]


def _cut(words: str) -> str:
    return words if len(words) <= _OPENING_CHARACTERS else words[: _OPENING_CHARACTERS - 1] + "…"
