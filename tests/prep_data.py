"""Rows, images and parquet files for the tests of prep."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medvl_jobs.contracts.records import IMAGE
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.rows import RawRow
from medvl_jobs.settings.prep import ColumnSettings, PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage

NAMES = [f"{number}.png" for number in range(20)]
FACTS_TYPE = pa.struct(
    [
        ("modality", pa.string()),
        ("plane", pa.string()),
        ("body_part", pa.string()),
        ("structures", pa.list_(pa.string())),
        ("region", pa.struct([("structure", pa.string()), ("position", pa.string()), ("area_percent", pa.float64())])),
        ("finding", pa.string()),
    ]
)


def pixels(width: int = 40, height: int = 32, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise, so that nothing is equal by chance."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 3000, (height, width), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.normal(size=(height, width)).astype(np.float32))
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def png(width: int = 40, height: int = 32, mode: str = "RGB", seed: int = 0) -> bytes:
    return encode(pixels(width, height, mode, seed))


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has nearly no pixels: what a decompression bomb looks like from outside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def raw(**cells: Any) -> RawRow:
    """A row that is accepted, but for ``cells``."""
    return RawRow(**{"source": "a.parquet", "row": 0, "image": {"bytes": png()}, "id": "x", "caption": "text", **cells})


def record(number: int, **cells: Any) -> dict[str, Any]:
    """A row of MedTrinity's form. Patients have five slices each."""
    return {
        "image": {"bytes": png(seed=number), "path": None},
        "id": f"patient{number // 5:03d}_{number % 5}",
        "caption": f"Axial CT of the chest, slice {number}.",
        "group": f"patient{number // 5:03d}",
        "facts": {"modality": "CT", "plane": "axial", "structures": ["left lung"]},
        **cells,
    }


def write_parquet(path: Path, records: list[dict[str, Any]], row_group_size: int = 50, **types: pa.DataType) -> Path:
    """A source file. A column is there when the first record has it."""
    known = {"image": IMAGE, "id": pa.string(), "caption": pa.string(), "group": pa.string(), "facts": FACTS_TYPE}
    names = list(records[0]) if records else list(known)
    schema = pa.schema([(name, types.get(name, known.get(name, pa.string()))) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path, row_group_size=row_group_size)
    return path


def captions_parquet(path: Path, **columns: object) -> Path:
    """A file of captions that lie apart from their images."""
    pq.write_table(pa.table(columns), path)
    return path


def caption_index(folder: Path, *, settings: ColumnSettings | None = None, **columns: object) -> CaptionIndex:
    """An index of one such file."""
    path = captions_parquet(folder / "metadata.parquet", **columns)
    return CaptionIndex.build([(path, path.name)], settings or ColumnSettings(), folder / "index")


def hashes(storage: Storage) -> dict[str, str]:
    """Every object of prepared datasets but manifests, which have the time in them."""
    keys = (key for key in storage.list_keys("prepared/") if not key.endswith("manifest.json"))
    return {key: hashlib.sha256(storage.read_bytes(key)).hexdigest() for key in keys}


def run_settings(source: Path | str, store: Path | str = "unused", **prep: Any) -> RunSettings:
    prep = {"source": str(source), "workers": 1, "llamafactory_export": True, **prep}
    return RunSettings(prep=PrepSettings(**prep), storage=StorageSettings(uri=str(store)))
