"""The rows that cross a stage boundary, with their pyarrow schemas and units."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded image in the form of Hugging Face's ``Image`` feature."""

_HF_FEATURES = {"image": {"_type": "Image"}}


def _with_hf_image(schema: pa.Schema) -> pa.Schema:
    """Mark ``image`` so that ``datasets`` and dataset viewers show it as a picture."""
    features: dict[str, dict[str, str]] = {
        field.name: _HF_FEATURES.get(field.name, {"_type": "Value", "dtype": str(field.type)}) for field in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


PREPARED = _with_hf_image(
    pa.schema(
        [
            pa.field("example_id", pa.string(), nullable=False),
            pa.field("image", IMAGE),  # nullable, or `datasets` would ignore the feature and show bytes
            pa.field("caption", pa.string(), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("facts", pa.string()),
        ]
    )
)
"""One example of a prepared dataset.

``group``: rows of one group never lie on both sides of a split. ``width``/``height``: pixels of ``image`` as stored.
``facts``: JSON of `contracts.facts.Facts`, or null when the source has none.
"""

LEDGER = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("group_source", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("facts", pa.string()),
        pa.field("came_as", pa.string(), nullable=False),
        pa.field("conversions", pa.list_(pa.string()), nullable=False),
        pa.field("pixels", pa.binary(32), nullable=False),
        pa.field("phash", pa.uint64(), nullable=False),
        pa.field("green_box", pa.bool_(), nullable=False),
        pa.field("says_nothing", pa.bool_(), nullable=False),
        pa.field("wording", pa.uint64(), nullable=False),
        pa.field("ticket", pa.uint64(), nullable=False),
    ]
)
"""One accepted row without its image, in the order of ``examples.parquet``: all that the split and the card need.

``came_as``: format and mode in the source, ``JPEG L``. ``conversions``: what was done to the image. ``pixels``: sha256
of the stored image, decoded. ``phash``: perceptual hash, 64 bits. ``green_box``: whether one is drawn on it.
``says_nothing``: the caption is an apology or a placeholder. ``wording``: digest of its words, without digits and case.
``ticket``: what the group drew for the split.
"""

SPLIT = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
"""Where one example of a side lies: the part, and the row of its ``examples.parquet``, from 0."""

LEFT_OUT = pa.schema([*SPLIT, pa.field("reason", pa.string(), nullable=False)])
"""An accepted row that is on neither side: its id has come before, or its image is also on the other side."""

QUARANTINE = _with_hf_image(
    pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
            pa.field("id", pa.string()),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("detail", pa.string(), nullable=False),
            pa.field("caption", pa.string()),
            pa.field("image", IMAGE),
        ]
    )
)
"""One refused row: where it came from (file and row number, from 0), why, and its image and caption as they were."""


@dataclass(frozen=True)
class Prediction:
    """One finished answer; a line of ``part-*.jsonl``. ``predict`` and ``label`` are LLaMA-Factory's names."""

    example_id: str
    image_id: str
    """The example whose image was shown: ``example_id`` itself, or another's in a control."""
    predict: str
    label: str
    """The reference caption."""
    new_tokens: int
    finish: Literal["stop", "length", "failed"]
    """``length``: cut off by ``eval.max_new_tokens``; ``failed``: refused for good, the answer is empty."""

    def to_line(self) -> str:
        """One JSON line, ending in a newline."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_predictions(text: str) -> list[Prediction]:
    """The inverse of `Prediction.to_line` over a whole part."""
    return [Prediction(**json.loads(line)) for line in text.split("\n") if line]


SCORES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""One score of one example, long form; a percentage but for ``*_errors`` (counts) and ``length_ratio``."""

CLAIMS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("right", pa.bool_(), nullable=False),
    ]
)
"""One claim of one answer: characters ``[start, end)`` of its text, what they claim, and whether it is so.

In the order of the text, each claim once, where it is made first. Two may share characters ("lungs" are two claims).
Nothing of an answer that no truth judges. ``field``: as in `eval.facts.Claim`; ``value``: ``left lung``, ``12.5%``.
"""
