"""The export loads in LLaMA-Factory: its format rules, written down again here from its parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prep_data import encode, pixels, png, record, run_settings, write_parquet

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.export import check_question
from medvl_jobs.prep.job import run
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.storage.local import LocalStorage

TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")
MEDIA = ("<image>", "<video>", "<audio>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The export of a dataset with awkward ids and both kinds of file."""
    rows = [record(number) for number in range(60)]
    rows[0]["id"], rows[1]["id"], rows[2]["id"] = "a/b c", "标识", "é" * 100
    rows[3]["image"]["bytes"] = encode(pixels(), "JPEG")
    rows[4]["caption"] = 'Quotes ", newline\nand ünïcode.'
    rows[5]["image"]["bytes"] = png(mode="RGBA")
    rows[6]["caption"] = "a literal <image> is refused"
    source = write_parquet(tmp_path / "source.parquet", rows)
    run(run_settings(source, tmp_path / "store"), LocalStorage(tmp_path / "store"), "k")
    return tmp_path / "store" / "prepared" / "k" / "llamafactory"


def exported(folder: Path) -> list[Path]:
    return [path for path in (folder / "images" / "00000-00000").iterdir() if path.name != "manifest.json"]


def load(folder: Path, dataset: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's way from a dataset's name to its examples; raises where it would skip a row or stop."""
    entry = json.loads((folder / "dataset_info.json").read_text())[dataset]
    assert entry["formatting"] == "sharegpt"
    tags = {name: entry["tags"].get(name) for name in TAGS}
    assert all(tags.values()), "with tags given, one that is left out is None and matches no row"
    examples = []
    for row in json.loads((folder / entry["file_name"]).read_text(encoding="utf-8")):
        messages, images = row[entry["columns"]["messages"]], row[entry["columns"]["images"]]
        assert len(messages) % 2 == 0
        for number, message in enumerate(messages):
            assert message[tags["role_tag"]] == tags["assistant_tag" if number % 2 else "user_tag"]
        text = "".join(message[tags["content_tag"]] for message in messages)
        assert text.count("<image>") == len(images)
        assert text.count("<video>") == text.count("<audio>") == 0
        for image in images:
            path = folder / image
            assert path.is_file()
            with Image.open(path) as opened:
                opened.convert("RGB")
                assert opened.format == {"jpg": "JPEG", "png": "PNG"}[path.suffix[1:]]
        examples.append({"question": messages[0]["value"], "answer": messages[1]["value"], "images": images})
    assert examples, "Cannot find valid samples"
    return examples


def test_both_datasets_load_by_llamafactorys_rules(folder: Path) -> None:
    train, val = load(folder, "mllm_train_data"), load(folder, "mllm_val_data")
    images = [image for example in train + val for image in example["images"]]
    assert len(train) + len(val) == 59
    assert len(set(images)) == 59
    assert sorted(images) == sorted(f"images/00000-00000/{path.name}" for path in exported(folder))
    assert 'Quotes ", newline\nand ünïcode.' in {example["answer"] for example in train + val}
    assert {example["question"] for example in train + val} == {"<image>" + PromptSettings().question}
    assert {path.suffix for path in exported(folder)} == {".jpg", ".png"}


def test_the_json_holds_a_row_a_line(folder: Path) -> None:
    lines = (folder / "mllm_val_data.json").read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert len(lines) - 2 == len(load(folder, "mllm_val_data"))


@pytest.mark.parametrize("placeholder", MEDIA)
def test_a_question_with_a_placeholder_is_refused(placeholder: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_question(f"What does {placeholder} show?")
    assert placeholder in caught.value.what


def test_the_export_can_be_left_out(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "source.parquet", [record(number) for number in range(60)])
    storage = LocalStorage(tmp_path / "store")
    run(run_settings(source, storage.uri, llamafactory_export=False), storage, "k")
    assert not any("llamafactory" in key for key in storage.list_keys("prepared/"))
