"""The tutorial's preparation, written anew: one process, every image decoded and encoded again, an unseeded split."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset

QUESTION = "<image>图片中的诊断结果是怎样?"
VAL_RATIO = 0.2


def main(source: str, out: Path) -> None:
    """Make ``mllm_data/`` in ``out`` from the parquet file ``source``; the cache of ``datasets`` is made there too."""
    rows = load_dataset("parquet", data_files=source, split="train", cache_dir=str(out / "cache"))
    folder = out / "mllm_data"
    folder.mkdir()
    examples = [_example(row, folder) for row in rows]
    val = set(random.sample(range(len(examples)), int(len(examples) * VAL_RATIO)))
    for name, chosen in (
        ("train", [example for number, example in enumerate(examples) if number not in val]),
        ("val", [examples[number] for number in val]),
    ):
        text = json.dumps(chosen, ensure_ascii=False, indent=2)
        (folder / f"mllm_{name}_data.json").write_text(text, encoding="utf-8")


def _example(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / f"{row['id']}.jpg"
    row["image"].save(path)
    return {
        "conversations": [{"from": "user", "value": QUESTION}, {"from": "assistant", "value": row["caption"]}],
        "images": [str(path)],
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
