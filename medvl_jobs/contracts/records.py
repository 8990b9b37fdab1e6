"""The rows that cross a stage boundary, with their pyarrow schemas and units."""

from __future__ import annotations

import json

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
            pa.field("image", IMAGE, nullable=False),
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
"""One refused row: where it came from (file and row number, from 0), why, and its original content."""

SCORES = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""One score of one example, long form; every value is a percentage from 0 to 100."""
