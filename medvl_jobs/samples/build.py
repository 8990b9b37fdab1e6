"""``medvl sample``: the demo's input, a folder that holds all that a run needs.

    <out>/
      medtrinity-sample.parquet   image, id, caption as in MedTrinity; group and facts besides
      base-model/                 the tiny Qwen3-VL-MoE
      LICENSES.md                 where the pictures come from and under which terms
      run.yaml                    settings for ``medvl run --config``

The pictures come from one chest CT and one brain template, so the sample shows that a pipeline works and that a model
looks at its input. It can say nothing about how well a model does on other patients.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from medvl_jobs.contracts.records import IMAGE
from medvl_jobs.errors import SettingsError
from medvl_jobs.samples.captions import facts_of, report
from medvl_jobs.samples.views import Block, blocks, render
from medvl_jobs.samples.volumes import brain_mr, chest_ct
from medvl_jobs.storage.files import os_errors

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("image", IMAGE),
        ("id", pa.string()),
        ("caption", pa.string()),
        ("group", pa.string()),
        (
            "facts",
            pa.struct(
                [
                    ("modality", pa.string()),
                    ("plane", pa.string()),
                    ("body_part", pa.string()),
                    ("structures", pa.list_(pa.string())),
                    (
                        "region",
                        pa.struct(
                            [("structure", pa.string()), ("position", pa.string()), ("area_percent", pa.float64())]
                        ),
                    ),
                    ("finding", pa.string()),
                ]
            ),
        ),
    ]
)

PARQUET = "medtrinity-sample.parquet"
BASE_MODEL = "base-model"
LICENSES = "LICENSES.md"
RUN_FILE = "run.yaml"
_ROWS_PER_BLOCK = 9
_TRIES = 50
"""Views that show too little are drawn again; after so many in a row the block is skipped."""


def teaches_base(block: Block) -> bool:
    """Even blocks taught the tiny base model (`grounding`); odd ones are the demo's, to train and to validate on."""
    return block.number % 2 == 0


def build_sample(out: Path, *, seed: int = 42, rows: int | None = None) -> Path:
    """Write the sample into ``out`` and return the path of its ``run.yaml``. Same seed, same bytes.

    ``rows`` limits the parquet, spread evenly over all blocks. Raises `SettingsError` when it is not positive, and what
    `volumes.data_file` and `storage.files.os_errors` raise.
    """
    if rows is not None and rows < 1:
        raise SettingsError(f"--rows is {rows}", remedy="give at least 1, or leave it out")
    with os_errors(out):
        return _write_sample(out, seed, rows)


def _write_sample(out: Path, seed: int, rows: int | None) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    records = _thin(list(_records(seed)), rows)
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), out / PARQUET, row_group_size=128, compression="zstd")
    package = resources.files("medvl_jobs.samples")
    with resources.as_file(package / BASE_MODEL) as folder:
        shutil.copytree(folder, out / BASE_MODEL, dirs_exist_ok=True)
    licences = (package / LICENSES).read_text(encoding="utf-8")
    (out / LICENSES).write_text(licences, encoding="utf-8")
    log.info("%s", licences)
    (out / RUN_FILE).write_text(_run_file(out.resolve()), encoding="utf-8")
    log.info("%d rows of %d groups in %s", len(records), len({r["group"] for r in records}), out / PARQUET)
    return out / RUN_FILE


def _records(seed: int) -> Iterator[dict[str, Any]]:
    for volume in (chest_ct(), brain_mr()):
        for block in blocks(volume):
            if not teaches_base(block):
                yield from _block_records(block, seed)


def _block_records(block: Block, seed: int) -> Iterator[dict[str, Any]]:
    # A generator of its own per block, so that one block's rows do not depend on another's.
    rng = np.random.default_rng([seed, *block.group.encode()])
    made = misses = 0
    while made < _ROWS_PER_BLOCK and misses < _TRIES:
        view = render(block, rng)
        facts = facts_of(view)
        if facts is None:
            misses += 1
            continue
        suffix, encoded = _encode(view.pixels_HW, block.volume.modality)
        example = f"{block.group.replace('/', '-')}-{made:03d}"
        yield {
            "image": {"bytes": encoded, "path": f"{example}.{suffix}"},
            "id": example,
            "caption": report(facts, view.window, rng),
            "group": block.group,
            "facts": {**vars(facts), "region": vars(facts.region) if facts.region else None},
        }
        made, misses = made + 1, 0


def _encode(pixels_HW: np.ndarray, modality: str) -> tuple[str, bytes]:
    """CT as PNG, MR as JPEG: MedTrinity holds both, and prep must keep both as they are."""
    buffer = io.BytesIO()
    if modality == "CT":
        Image.fromarray(pixels_HW).save(buffer, "PNG", optimize=True)
        return "png", buffer.getvalue()
    Image.fromarray(pixels_HW).save(buffer, "JPEG", quality=95)
    return "jpg", buffer.getvalue()


def _thin(records: list[dict[str, Any]], rows: int | None) -> list[dict[str, Any]]:
    if rows is None or rows >= len(records):
        return records
    return [records[index * len(records) // rows] for index in range(rows)]


def _run_file(out: Path) -> str:
    settings = {
        "name": "demo",
        "profile": "demo",
        "storage": {"uri": str(out.parent / "store")},
        "prep": {"source": str(out / PARQUET)},
        "model": {"path": str(out / BASE_MODEL)},
    }
    return "# Written by 'medvl sample'. Everything else is in the profile 'demo'.\n" + yaml.safe_dump(
        settings, sort_keys=False
    )
