"""The control without a model: one caption of the training split, said of every image.

Captions of one data set are much alike, so text scores have a floor that nobody needs a model for; this is it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.model.prepared import places, read_ledgers
from medvl_jobs.storage.base import Storage

SAMPLE = 2000
"""Captions that are compared with each other, at most."""
SEED = 42
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
"""A Chinese character, or a run of letters and digits."""


class TemplateEngine:
    """An `Engine` that looks at nothing. It counts no tokens: there is no tokenizer."""

    load_seconds = preparation_seconds = 0.0

    def __init__(self, answer: str) -> None:
        """``answer`` is all it says."""
        self.said = answer
        self.steps = 0

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        """The same for each image."""
        for number, _ in enumerate(images):
            self.steps += 1
            yield number, Answer(self.said, 0, "stop")

    def close(self) -> None:
        """Nothing is held."""


def train_template(storage: Storage, prepared_key: str, scratch: Path) -> str:
    """The `medoid` of the training captions of a prepared dataset, read without images. Raises what `places` raises."""
    ledgers = read_ledgers(storage, prepared_key, places(storage, prepared_key, "train"), scratch)
    return medoid([caption for table in ledgers for caption in table["caption"].to_pylist()])


def medoid(captions: Sequence[str]) -> str:
    """The caption that is most like the others: of the highest mean Dice coefficient of their sets of words.

    Dice (1945): 2 |A ∩ B| / (|A| + |B|). Over a random sample of `SAMPLE` where there are more; of several that are
    alike, the first by the alphabet.
    """
    if len(captions) > SAMPLE:
        drawn = np.random.default_rng(SEED).choice(len(captions), SAMPLE, replace=False)
        captions = [captions[index] for index in drawn]
    captions = sorted(captions)
    texts = [set(WORD.findall(caption.lower())) for caption in captions]
    column = {word: place for place, word in enumerate(sorted(set().union(*texts)))}
    has_NV = np.zeros((len(texts), len(column)), np.float32)
    for row, words in enumerate(texts):
        has_NV[row, [column[word] for word in words]] = 1
    sizes_N = has_NV.sum(1)
    both_NN = has_NV @ has_NV.T
    dice_NN = 2 * both_NN / np.maximum(sizes_N[:, None] + sizes_N[None, :], 1)
    return captions[int(np.round(dice_NN.mean(1, dtype=np.float64), 9).argmax())]
