"""The benchmark's input: parquet in MedTrinity's form, of real CT slices that differ in every row."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medvl_jobs.contracts.records import IMAGE
from medvl_jobs.samples.captions import facts_of, report
from medvl_jobs.samples.views import blocks, render
from medvl_jobs.samples.volumes import chest_ct

SEED = 42
MIN_WORDS = 60
"""Of a caption; a view of which less can be said is drawn again. MedTrinity's captions are of this length."""

_TEXT = {"_type": "Value", "dtype": "string"}
_FEATURES = {"image": {"_type": "Image"}, "id": _TEXT, "caption": _TEXT}
SCHEMA = pa.schema([("image", IMAGE), ("id", pa.string()), ("caption", pa.string())]).with_metadata(
    {"huggingface": json.dumps({"info": {"features": _FEATURES}})}  # without it `datasets` would not decode
)


def sources(folder: Path, sizes: Sequence[int]) -> dict[int, Path]:
    """A parquet file for each number of rows, each the beginning of the next; made once, then kept in ``folder``."""
    paths = {rows: folder / f"slices-{SEED}-{rows}.parquet" for rows in sizes}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(list(islice(_records(), max(sizes))), schema=SCHEMA)
        for rows, path in paths.items():
            _write(table.slice(0, rows), path)
    return paths


def smallest(source: Path) -> Path:
    """Beside ``source``, its first two rows: prep needs one for each side of the split."""
    path = source.with_name(f"slices-{SEED}-2.parquet")
    ids = ["on-train-side", "on-val-side"]  # which is where the default seed and ratio put them
    _write(pq.read_table(source).slice(0, 2).set_column(1, SCHEMA.field("id"), pa.array(ids)), path)
    return path


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_suffix(".tmp")  # a run that is stopped here must not leave half an input
    pq.write_table(table, temporary, row_group_size=100)
    temporary.rename(path)


def _records() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    found, number = blocks(chest_ct()), 0
    while True:
        block = found[int(rng.integers(len(found)))]
        view = render(block, rng, pixels=int(rng.integers(256, 513)))
        facts = facts_of(view)
        caption = report(facts, view.window, rng) if facts else ""
        if len(caption.split()) < MIN_WORDS:
            continue
        name = f"{block.group.replace('/', '-')}-{number:05d}"
        yield {
            "image": {"bytes": _jpeg(view.pixels_HW, rgb=number % 4 == 0), "path": None},
            "id": name,
            "caption": caption,
        }
        number += 1


def _jpeg(pixels_HW: np.ndarray, *, rgb: bool) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_HW).convert("RGB" if rgb else "L").save(stream, "JPEG", quality=92)
    return stream.getvalue()
