"""Who is asked about which picture: the examples of a variant, in the order in which they are cut into parts."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.settings.model import PromptSettings

GREY = 128
"""Of 0 to 255. Qwen3-VL's processor scales 127.5 to 0, the middle of what the vision tower is given."""
BLANK = "blank"
"""``Prediction.image_id`` of the control without a picture: no example's."""


@dataclass(frozen=True)
class Question:
    """An example to answer: whose caption is the reference, and which image is shown."""

    example_id: str
    label: str
    """The caption, behind ``prompt.answer_prefix``."""
    image_id: str
    image_row: int | None
    """Row of the shown image in the validation split; none for a grey picture."""
    width: int
    """Of the shown image, in pixels."""
    height: int

    @property
    def pixels(self) -> int:
        """Area of the shown image."""
        return self.width * self.height


def asked_question(prompt: PromptSettings, settings: EvalSettings, variant: Variant) -> str | None:
    """What the model is asked in this variant; nothing where there is no model."""
    if variant is Variant.TEMPLATE:
        return None
    return settings.format_question if variant is Variant.BASE_FORMATTED else prompt.question


def questions(
    rows: Sequence[dict[str, object]], settings: EvalSettings, variant: Variant, answer_prefix: str = ""
) -> list[Question]:
    """The examples of a variant, largest image first, so that a batch holds like lengths and memory peaks at the start.

    ``rows`` need ``example_id``, ``caption``, ``group``, ``width`` and ``height``.
    """
    rows = rows[: settings.limit]
    shown: Sequence[int] = range(len(rows))
    if variant is Variant.TUNED_SHUFFLED:
        shown = other_rows([str(row["group"]) for row in rows], settings.shuffle_seed)
    blank = variant is Variant.TUNED_BLANK
    made = [
        Question(
            example_id=str(row["example_id"]),
            label=f"{answer_prefix}{row['caption']}",
            image_id=BLANK if blank else str(rows[image_row]["example_id"]),
            image_row=None if blank else image_row,
            width=int(str(rows[image_row]["width"])),
            height=int(str(rows[image_row]["height"])),
        )
        for row, image_row in zip(rows, shown, strict=True)
    ]
    return sorted(made, key=lambda q: (-q.pixels, q.example_id))


def other_rows(groups: Sequence[str], seed: int) -> list[int]:
    """For every row a row of another group, each used once; nobody meets itself if there are two rows at all.

    A neighbouring slice of the same volume would be nearly the right image. So rows are lined up group by group, in
    random order, and the line is shifted by the size of the largest group. Where one group holds more than half of all
    rows, some of its rows can only get each other's images.
    """
    rng = np.random.default_rng(seed)
    rank = {group: place for place, group in enumerate(rng.permutation(sorted(set(groups))))}
    line = sorted(rng.permutation(len(groups)), key=lambda row: rank[groups[row]])
    largest = max(Counter(groups).values())
    other = np.empty(len(groups), int)
    other[line] = np.roll(line, -(largest if largest < len(groups) else 1))
    return [int(row) for row in other]


def grey_picture(width: int, height: int) -> bytes:
    """A PNG of this size, every pixel `GREY`: as many visual tokens as the image it stands for, and nothing to see."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), GREY).save(buffer, "PNG")
    return buffer.getvalue()
