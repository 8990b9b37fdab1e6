"""What prep exports, LLaMA-Factory loads: every row, with its image, on both sides; and the rules can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import datasets
import pytest
from llamafactory_rules import LoadedExample, load
from PIL import Image
from prep_data import encode, pixels, png, record, run_settings, write_parquet

from medvl_jobs.prep.job import run
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.storage.local import LocalStorage

TRAIN, VAL = "mllm_train_data", "mllm_val_data"
ODD_IDS = [
    "a/b c",
    "a/./b//c",
    "..a",
    ".hidden",
    "100%",
    "%2E%2F",
    "%sha256-0",
    "标识/é",
    "e\u0301",
    "🫁",
    "مرحبا",
    "é" * 100,
    "x" * 200,
    "/".join("deep") * 20,
    " spaces around ",
    "-rf *",
    "~user$HOME",
    "a?b#c&d=e+f;g",
    "<b>'\"|:",
    "CON.png",
    "0",
]
ODD_CAPTIONS = [
    'Quotes ", \\" and a backslash \\, a newline\nand a tab\t.',
    "Ünïcode, 中文, עברית, العربية \u200fwith marks\u200e.",
    "🫁 lungs, 👩🏽‍⚕️ joined, 𝒳 beyond the BMP.",
    "2024-01-01",
    "1e5",
    "[1, 2]",
    '{"from": "user", "value": "<img>"}',
    "Near <images>, < image >, image> and <|not one |>.",
    "{{content}} {{idx}} %s $x </s> [INST]",
    "word " * 1500 + "end",
]
ODD_IMAGES = {
    "palette": encode(pixels(seed=901).convert("P")),
    "alpha": png(mode="RGBA", seed=902),
    "16 bit": png(mode="I;16", seed=903),
    "webp": encode(pixels(seed=904), "WEBP"),
    "jpeg": encode(pixels(64, 500, seed=905), "JPEG"),
    "gray": png(300, 200, mode="L", seed=906),
}


def rows() -> list[dict[str, Any]]:
    """Sound rows, odd ones, and two that are refused, so that the export must leave them out as well."""
    made = [record(number) for number in range(60)]
    cells: list[dict[str, Any]] = [{"id": each} for each in ODD_IDS]
    cells += [{"caption": each} for each in ODD_CAPTIONS]
    cells += [{"image": {"bytes": each, "path": None}} for each in ODD_IMAGES.values()]
    cells += [{"caption": "a literal <image>"}, {"image": {"bytes": b"broken", "path": None}}]
    for row, odd in zip(made, cells, strict=False):
        row.update(odd)
    return made


SOURCE = rows()
BY_CAPTION = {row["caption"]: row for row in SOURCE}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a user copies; made once, and only read."""
    folder = tmp_path_factory.mktemp("export")
    storage = LocalStorage(folder / "store")
    source = write_parquet(folder / "source.parquet", SOURCE)
    run(run_settings(source, storage.uri, llamafactory_export=True, rows_per_part=25), storage, "k")
    return folder / "store" / "prepared" / "k" / "llamafactory"


def loaded(export: Path) -> Iterator[tuple[LoadedExample, dict[str, Any]]]:
    """Each example of both sides with the row that it comes from."""
    for example in load(export, TRAIN) + load(export, VAL):
        yield example, BY_CAPTION[example.contents[1]]


def test_every_accepted_row_loads_once(export: Path) -> None:
    assert load(export, TRAIN)
    assert load(export, VAL)
    ids = sorted(row["id"] for _, row in loaded(export))
    refused = [row["id"] for row in SOURCE if row["image"]["bytes"] == b"broken" or "<image>" in row["caption"]]
    assert len(refused) == 2
    assert ids == sorted(row["id"] for row in SOURCE if row["id"] not in refused)
    assert {*ODD_IDS} < {*ids}


def test_question_answer_and_image_belong_together(export: Path) -> None:
    for example, row in loaded(export):
        assert example.contents == ("<image>" + PromptSettings().question, row["caption"])
        [path] = example.images
        if (data := row["image"]["bytes"]) in [ODD_IMAGES[each] for each in ("palette", "alpha", "16 bit", "webp")]:
            assert path.suffix == ".png", "converted"
        else:
            assert path.read_bytes() == data


def test_a_palette_keeps_its_colours(export: Path, tmp_path: Path) -> None:
    (tmp_path / "palette.png").write_bytes(ODD_IMAGES["palette"])
    [path] = [example.images[0] for example, row in loaded(export) if row["image"]["bytes"] == ODD_IMAGES["palette"]]
    with Image.open(path) as exported, Image.open(tmp_path / "palette.png") as original:
        assert exported.tobytes() == original.convert("RGB").tobytes()


def test_file_names_are_plain_and_lead_back_to_the_id(export: Path) -> None:
    paths = {row["id"]: example.images[0] for example, row in loaded(export)}
    for example_id, path in paths.items():
        assert path.name.isascii()
        assert path.parent.parent == export / "images"
        assert not path.name.startswith(".")
        assert len(path.name) < 250
        assert unquote(path.stem) == example_id or path.stem.startswith("%sha256-")
    assert len(set(paths.values())) == len(paths)
    files = {path for path in export.glob("images/*/*") if path.suffix in (".png", ".jpg")}
    assert files == set(paths.values()), "no image without a row"


@pytest.mark.parametrize("name", [TRAIN, VAL])
def test_datasets_reads_the_same_text(export: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory reads the file with `datasets`, which guesses types: a date, a number or JSON must stay text."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    file = export / f"{name}.json"
    read = datasets.load_dataset("json", data_files=[str(file)], split="train", cache_dir=str(tmp_path))
    assert read.to_list() == json.loads(file.read_text(encoding="utf-8"))


def test_the_folder_can_be_moved(export: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(export, tmp_path / "other place")
    assert [example.contents for example in load(moved, VAL)] == [example.contents for example in load(export, VAL)]


Json = dict[str, Any]
Fault = Callable[[Path], None]


def entry(change: Callable[[Json], object], *, ascii_only: bool = True) -> Fault:
    """A fault in what ``dataset_info.json`` says of the training data."""

    def apply(folder: Path) -> None:
        info = json.loads((folder / "dataset_info.json").read_text())
        change(info[TRAIN])
        (folder / "dataset_info.json").write_text(json.dumps(info, ensure_ascii=ascii_only), encoding="utf-8")

    return apply


def row(change: Callable[[Json], object]) -> Fault:
    """A fault in the second row of the training data."""

    def apply(folder: Path) -> None:
        file = folder / f"{TRAIN}.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        change(data[1])
        file.write_text(json.dumps(data), encoding="utf-8")

    return apply


def message(number: int, **cells: Any) -> Fault:
    return row(lambda each: each["conversations"][number].update(cells))


def text(number: int, more: str) -> Fault:
    def change(each: Json) -> None:
        each["conversations"][number]["value"] += more

    return row(change)


def image(data: bytes) -> Fault:
    """Other content for the image of the second row."""

    def apply(folder: Path) -> None:
        data_file = json.loads((folder / f"{TRAIN}.json").read_text(encoding="utf-8"))
        (folder / data_file[1]["images"][0]).write_bytes(data)

    return apply


def without_image(folder: Path) -> None:
    load(folder, TRAIN)[1].images[0].unlink()


def absolute(folder: Path) -> None:
    row(lambda each: each.update(images=[str(folder / each["images"][0])]))(folder)


def leading_out(folder: Path) -> None:
    row(lambda each: each.update(images=[f"../{folder.name}/{each['images'][0]}"]))(folder)


def directory(*files: str) -> Fault:
    """The data file in a directory, together with ``files``."""

    def apply(folder: Path) -> None:
        (folder / "data").mkdir()
        shutil.move(folder / f"{TRAIN}.json", folder / "data" / f"{TRAIN}.json")
        for file in files:
            (folder / "data" / file).write_text("[]")
        entry(lambda each: each.update(file_name="data"))(folder)

    return apply


def undefined(folder: Path) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({VAL: {}}))


def written(content: str) -> Fault:
    """The training data replaced by ``content``."""

    def apply(folder: Path) -> None:
        (folder / f"{TRAIN}.json").write_text(content)

    return apply


def halved(folder: Path) -> None:
    data = (folder / f"{TRAIN}.json").read_bytes()
    (folder / f"{TRAIN}.json").write_bytes(data[: len(data) // 2])


# What LLaMA-Factory does with each was tried, with release 0.9.5.
FAULTS: dict[str, tuple[Fault, str]] = {
    # It stops, some with no more than "KeyError: 'None'".
    "no dataset_info": (lambda folder: (folder / "dataset_info.json").unlink(), "is missing"),
    "an encoding": (entry(lambda each: each.update(file_name="é.json"), ascii_only=False), "only ASCII is safe"),
    "undefined dataset": (undefined, "is undefined"),
    "no formatting": (entry(lambda each: each.pop("formatting")), "the default is alpaca"),
    "no tags": (entry(lambda each: each.pop("tags")), "tags without"),
    "no role tag": (entry(lambda each: each["tags"].pop("role_tag")), "tags without .'role_tag'"),
    "no content tag": (entry(lambda each: each["tags"].pop("content_tag")), "tags without .'content_tag'"),
    "no user tag": (entry(lambda each: each["tags"].pop("user_tag")), "tags without .'user_tag'"),
    "no assistant tag": (entry(lambda each: each["tags"].pop("assistant_tag")), "tags without .'assistant_tag'"),
    "no messages column": (entry(lambda each: each["columns"].pop("messages")), "columns without .'messages'"),
    "no images column": (entry(lambda each: each["columns"].pop("images")), "columns without .'images'"),
    "a hub's dataset": (entry(lambda each: each.update(hf_hub_url="x/y")), "'hf_hub_url'.* elsewhere"),
    "no data file": (lambda folder: (folder / f"{TRAIN}.json").unlink(), "not found"),
    "unknown file type": (directory("README.md"), "of one type"),
    "mixed file types": (directory("notes.txt"), "of one type, JSON, are needed, not .'json', 'text'"),
    "half a data file": (halved, "is not JSON"),
    "no array": (written('{"a": 1}'), "is not an array"),
    "no rows": (written("[]"), "has no rows"),
    "a row without images": (row(lambda each: each.pop("images")), "differ in their columns"),
    "messages are null": (row(lambda each: each.update(conversations=None)), "no list of messages"),
    "images are null": (row(lambda each: each.update(images=None)), "no list of images"),
    "no role": (row(lambda each: each["conversations"][0].pop("from")), "message 0 is of None"),
    "content is a number": (message(1, value=5), "message 1 is not text"),
    "no placeholder": (message(0, value="What is this?"), "0 times <image> for 1 files"),
    "a placeholder in the answer": (text(1, " <image>"), "2 times <image> for 1 files"),
    "a second image": (row(lambda each: each["images"].append(each["images"][0])), "1 times <image> for 2 files"),
    "no image": (row(lambda each: each["images"].clear()), "1 times <image> for 0 files"),
    "a video": (text(0, "<video>"), "1 times <video> for 0 files"),
    "a sound": (text(1, "<audio>"), "1 times <audio> for 0 files"),
    "image is a number": (row(lambda each: each.update(images=[5])), "5 is not a path"),
    "image file is missing": (without_image, "Use original path"),
    "path starts elsewhere": (row(lambda each: each.update(images=["k/" + each["images"][0]])), "Use original path"),
    "image is not one": (image(b"not an image"), "does not open"),
    "image is cut": (image(png(200, 200)[:5000]), "does not open"),
    # It leaves the row out, with a warning among its log lines.
    "roles of the other form": (message(0, **{"from": "human"}), "'human': 'Invalid role tag'"),
    "assistant first": (row(lambda each: each["conversations"].reverse()), "Invalid role tag"),
    "user twice": (message(1, **{"from": "user"}), "message 1 is of 'user'"),
    "odd number of messages": (row(lambda each: each["conversations"].pop()), "1 messages: 'Invalid message count'"),
    "no messages": (row(lambda each: each["conversations"].clear()), "Dropped invalid example"),
    # It loads the row without a word: other text or pixels than ours, or tokens that fail in the model, or a path that
    # only works on this machine.
    "fewer rows": (entry(lambda each: each.update(num_samples=3)), "'num_samples'.* other rows"),
    "content is empty": (message(1, value=" "), "message 1 is empty"),
    "an image token": (text(1, "<|image_pad|>"), "<.image_pad.> in message 1"),
    "an end of turn": (text(0, "<|im_end|>"), "<.im_end.> in message 0"),
    "a thought": (text(1, "<think>"), "<think> in message 1"),
    "a slot": (text(0, "{{idx}}"), "idx.* in message 0"),
    "path is absolute": (absolute, "leads out of the folder"),
    "path leads out": (leading_out, "leads out of the folder"),
    "image is of 16 bit": (image(png(mode="I;16")), "is I;16"),
    "image is a palette": (image(png(mode="P")), "is P"),
    "image is a strip": (image(png(1000, 4)), "1000 x 4"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_rules_find(name: str, export: Path, tmp_path: Path) -> None:
    fault, found = FAULTS[name]
    broken = shutil.copytree(export, tmp_path / "broken")
    fault(broken)
    with pytest.raises(AssertionError, match=found):
        load(broken, TRAIN)


def test_a_directory_of_data_files_is_fine(export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "copy")
    directory("more.json")(folder)
    assert load(folder, TRAIN)[0].contents == load(export, TRAIN)[0].contents
