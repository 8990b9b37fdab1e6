"""The dataset check: what the card gains, the table, the gates, the page, and what a second one does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import check_data
import numpy as np
import pytest
import tokenizers
from check_data import nasty_settings, sound
from prep_data import png, record, run_settings, write_parquet

from medvl_jobs import cli
from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.errors import DataError, SettingsError
from medvl_jobs.prep import job
from medvl_jobs.prep.check import captions, rows
from medvl_jobs.prep.check import job as check
from medvl_jobs.prep.check.figures import histogram, share
from medvl_jobs.prep.check.language import Languages
from medvl_jobs.prep.check.rows import shortened
from medvl_jobs.prep.check.table import WIDTH
from medvl_jobs.prep.check.words import percent
from medvl_jobs.prep.duplicates import nearest, repeats
from medvl_jobs.prep.gates import gates
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import read_manifest

KEY = "ab12"
PREFIX = f"checks/{KEY}"
BASE_MODEL = Path(str(resources.files("medvl_jobs.samples") / "base-model"))


def good(count: int = 60) -> list[dict[str, Any]]:
    return [sound(number) for number in range(count)]


def settings_of(tmp_path: Path, rows: list[dict[str, Any]], **prep: Any) -> RunSettings:
    source = write_parquet(tmp_path / "source.parquet", rows)
    return run_settings(source, tmp_path / "store", **{"llamafactory_export": False, **prep})


def checked(settings: RunSettings) -> dict[str, Any]:
    card = check.run(settings, open_storage(settings.storage), KEY)
    assert card is not None
    return card


def page_of(root: Path) -> str:
    return LocalStorage(root).read_bytes(f"{PREFIX}/{layout.PAGE}").decode()


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataError]:
    """The store after a check of everything that can be wrong, and the error that it ended with."""
    folder = tmp_path_factory.mktemp("nasty")
    settings = nasty_settings(folder)
    with pytest.raises(DataError) as caught:
        check.run(settings, open_storage(settings.storage), KEY)
    return folder / "store", caught.value


def card_of(root: Path) -> dict[str, Any]:
    return dict(json.loads(LocalStorage(root).read_bytes(f"{PREFIX}/{layout.CARD}")))


# --- what is made, and where


def test_a_sound_dataset_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = checked(settings_of(tmp_path, good()))
    store = LocalStorage(tmp_path / "store")
    assert card == card_of(tmp_path / "store")
    manifest = read_manifest(store, PREFIX)
    assert manifest is not None
    assert (manifest.stage, manifest.key) == ("prep-check", KEY)
    assert [entry.path for entry in manifest.files] == ["card.json", "index.html"]
    assert [each.uri for each in manifest.inputs] == [
        str(tmp_path / "source.parquet"), *(f"prepared/{KEY}/parts/00000-0000{part}" for part in range(1))
    ]  # fmt: skip
    assert read_manifest(store, f"prepared/{KEY}") is None, "only prep makes a dataset"
    printed = capsys.readouterr().out
    assert "Passes all gates: " in printed
    assert printed.rstrip().endswith(f"page: {tmp_path / 'store' / PREFIX}/index.html")


def test_prep_takes_up_the_parts_of_the_check(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, good())
    card = checked(settings)
    store = LocalStorage(tmp_path / "store")
    before = {key: store.stat(key) for key in store.list_keys(f"prepared/{KEY}/parts/")}
    manifest = job.run(settings, store, KEY)
    assert manifest is not None
    # The manifests of the parts say when these were made: the same ones are the same parts.
    assert {key: store.stat(key) for key in store.list_keys(f"prepared/{KEY}/parts/")} == before
    prepared = json.loads(store.read_bytes(f"prepared/{KEY}/card.json"))
    for only_checked in ("tokens", "languages", "openings"):
        del card["captions"][only_checked]
    del card["source"]
    assert card == prepared


def test_two_checks_make_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        settings = settings_of(tmp_path, good(), rows_per_part=50)
        settings = settings.model_copy(update={"storage": StorageSettings(uri=str(tmp_path / name))})
        checked(settings)
        store = LocalStorage(tmp_path / name)
        pages.append([store.read_bytes(f"{PREFIX}/{file}") for file in (layout.CARD, layout.PAGE)])
    assert pages[0] == pages[1]


def test_a_finished_check_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path, good())
    card = checked(settings)
    first = capsys.readouterr().out
    before = LocalStorage(tmp_path / "store").read_bytes(f"{PREFIX}/manifest.json")
    (tmp_path / "source.parquet").unlink()
    assert checked(settings) == card
    assert capsys.readouterr().out == first
    assert LocalStorage(tmp_path / "store").read_bytes(f"{PREFIX}/manifest.json") == before


def test_other_limits_judge_again_and_the_page_says_so(tmp_path: Path) -> None:
    rows = good()
    for row in rows[:4]:
        row["caption"] = ""
    settings = settings_of(tmp_path, rows)
    with pytest.raises(DataError):
        checked(settings)
    assert 'class="fails"' in page_of(tmp_path / "store")
    with pytest.raises(DataError):  # once more, from what is stored
        checked(settings)
    checked(settings_of(tmp_path, rows, gates={"refused": 0.1}))
    assert 'class="passes"' in page_of(tmp_path / "store")


def test_another_pods_parts_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, good(), rows_per_part=50, indexes=2)
    store = LocalStorage(tmp_path / "store")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert check.run(settings, store, KEY) is None
    assert list(store.list_keys("checks/")) == []
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert check.run(settings, store, KEY) is not None


def test_from_bucket_to_bucket(tmp_path: Path, s3_settings: StorageSettings) -> None:
    rows = good()
    rows[0]["caption"] = ""
    local = settings_of(tmp_path, rows)
    checked(local)
    bucket = open_storage(s3_settings)
    bucket.upload(tmp_path / "source.parquet", "raw/source.parquet")
    there = run_settings(f"{s3_settings.uri}/raw/source.parquet", llamafactory_export=False)
    checked(there.model_copy(update={"storage": s3_settings}))
    for file in (layout.CARD, layout.PAGE):
        assert bucket.read_bytes(f"{PREFIX}/{file}") == LocalStorage(tmp_path / "store").read_bytes(f"{PREFIX}/{file}")


# --- what the card gains


def test_the_card_says_what_the_source_is_made_of(nasty: tuple[Path, DataError], tmp_path: Path) -> None:
    names = {name: name for name in ("image", "id", "caption", "group", "facts")}
    assert card_of(nasty[0])["source"] == {"files": 2, "kinds": {"parquet": 2}, "columns": names}
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"image": "a.png", "id": "a", "caption": "text", "group": "g"}\n')
    (tmp_path / "a.png").write_bytes(png())
    settings = run_settings(lines, tmp_path / "store", image_folder=str(tmp_path), llamafactory_export=False)
    with pytest.raises(DataError, match="split is empty"):
        checked(settings)
    assert card_of(tmp_path / "store")["source"]["kinds"] == {"jsonl": 1}


def test_tokens_are_counted_with_the_models_tokenizer(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, good(30))
    card = checked(settings.model_copy(update={"model": ModelSettings(path=str(BASE_MODEL))}))
    tokens = card["captions"]["tokens"]
    loaded = tokenizers.Tokenizer.from_file(str(BASE_MODEL / "tokenizer.json"))
    counts = [len(loaded.encode(row["caption"], add_special_tokens=False).ids) for row in good(30)]
    assert (tokens["rows"], tokens["exact"]) == (30, True)
    assert tokens["tokenizer"] == f"sha256:{sha256_file(BASE_MODEL / 'tokenizer.json')}"
    assert (tokens["min"], tokens["max"]) == (min(counts), max(counts))
    assert tokens["mean"] == round(float(np.mean(counts)), 2)
    assert sum(tokens["histogram"].values()) == 30


def test_tokens_are_estimated_without_one(tmp_path: Path) -> None:
    rows = [sound(number) | {"caption": "lung " * (number + 1)} for number in range(20)]
    tokens = checked(settings_of(tmp_path, rows))["captions"]["tokens"]
    assert tokens["exact"] is False
    assert tokens["tokens_per_word"] == 1.65
    assert (tokens["min"], tokens["max"]) == (2, 33)
    assert "estimated at 1.65 a word" in page_of(tmp_path / "store")


def test_another_tokenizer_makes_the_check_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, good(30))
    assert checked(settings)["captions"]["tokens"]["exact"] is False
    with_model = settings.model_copy(update={"model": ModelSettings(path=str(BASE_MODEL))})
    assert checked(with_model)["captions"]["tokens"]["exact"] is True


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    settings = settings_of(tmp_path, good(10))
    with pytest.raises(DataError, match="the tokenizer cannot be read") as caught:
        checked(settings.model_copy(update={"model": ModelSettings(path=str(tmp_path / "model"))}))
    assert caught.value.where == str(tmp_path / "model" / "tokenizer.json")


def test_openings_are_the_most_frequent_first_words(tmp_path: Path) -> None:
    rows = good(20)
    for number, row in enumerate(rows):
        row["caption"] = (
            f"The image shows the left lung {number}" if number < 15 else f"Case {number} has six or more words"
        )
    openings = checked(settings_of(tmp_path, rows))["captions"]["openings"]
    assert openings[0] == {"words": "The image shows the left lung", "rows": 15, "share": 0.75}
    assert [each["words"] for each in openings[1:3]] == ["Case 15 has six or more", "Case 16 has six or more"]
    assert len(openings) == 5


def test_an_opening_without_spaces_is_cut(tmp_path: Path) -> None:
    described = captions.describe(["图" * 500], ["zh"], None)
    assert described["openings"][0]["words"] == "图" * 79 + "…"


def test_the_sample_does_not_depend_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "SAMPLE_ROWS", 3)
    lots = np.array([50, 10, 40, 20, 30], np.uint64)
    kept = np.array([True, True, True, False, True])
    assert captions.drawn(lots, kept).tolist() == [1, 2, 4]
    assert captions.drawn(lots[::-1], kept[::-1]).tolist() == [0, 2, 3]
    assert captions.drawn(lots[:0], kept[:0]).tolist() == []


def test_a_large_dataset_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "SAMPLE_ROWS", 10)
    found = checked(settings_of(tmp_path, good(), rows_per_part=50))["captions"]
    assert found["tokens"]["rows"] == found["languages"]["rows"] == 10
    assert sum(each["rows"] for each in found["openings"]) <= 10


# --- languages

ENGLISH = (
    "Axial CT of the chest, slice 0.", "No acute cardiopulmonary abnormality.", "Melanoma in situ.", "Pneumothorax.",
    "Invasive ductal carcinoma, H&E stain.", "Histopathology of adenocarcinoma, x200.", "Osteosarcoma distal femur.",
    "Hepatocellular carcinoma segment VII.", "Glioblastoma multiforme, T2 FLAIR.", "CT abdomen: hepatic steatosis.",
    "Cerebellum, vermis and medulla oblongata.", "Mammogram, BI-RADS 4.", "Basal cell carcinoma, nodular type.",
)  # fmt: skip
"""Short and full of Latin: what a model of 139 languages takes for Romanian, Slovene or Uzbek."""
OTHERS = {
    "zh": (*check_data.CHINESE, "胸部CT横断面图像。"),
    "de": (check_data.GERMAN, "Das Bild zeigt eine MRT des Gehirns ohne Befund.", "Die Leber ist vergrößert."),
    "fr": ("L'image montre une IRM cérébrale sans anomalie.", "Échographie de la vésicule biliaire."),
    "es": ("La imagen muestra una resonancia magnética del cerebro.", "Radiografía de tórax sin alteraciones."),
    "ar": (check_data.ARABIC,),
}


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages("en")


def test_short_medical_english_is_taken_for_no_other_language(languages: Languages) -> None:
    assert {languages.of(caption) for caption in ENGLISH} == {"en", "unknown"}


@pytest.mark.parametrize("code", OTHERS)
def test_other_languages_are_told(languages: Languages, code: str) -> None:
    assert {languages.of(caption) for caption in OTHERS[code]} == {code}


def test_too_little_to_tell_is_unknown(languages: Languages) -> None:
    assert [languages.of(text) for text in ("", "N/A", "CT 12 x 12", "12345 67890 12345 67890", "肺部")] == [
        "unknown"
    ] * 5
    assert languages.of("An axial slice of the chest is shown here.") == "en"


def test_an_expected_language_is_a_candidate() -> None:
    swahili = "Picha hii inaonyesha mapafu ya mgonjwa na moyo wake kwa upande wa kushoto."
    assert Languages("sw").of(swahili) == "sw"
    assert Languages("en").of(swahili) != "sw"


def test_a_language_that_nothing_can_tell_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'xx'") as caught:
        checked(settings_of(tmp_path, good(10), language="xx"))
    assert "en, " in caught.value.remedy
    assert list(LocalStorage(tmp_path / "store").list_keys("")) == []


def test_unknown_captions_are_not_held_against_the_gate() -> None:
    card: dict[str, Any] = {
        "rows": {"read": 100, "accepted": 100, "refused": 0},
        "images": {"green_box": 0},
        "duplicates": {"exact": {"rows": 0}},
        "captions": {"says_nothing": 0, "languages": {"rows": 100, "found": {"en": 57, "unknown": 40, "zh": 3}}},
    }
    (gate,) = (gate for gate in gates(card, PrepSettings()) if gate.name == "other_language")
    assert (gate.rows, gate.of, gate.fails) == (3, 60, False)
    (gate,) = (gate for gate in gates(card, PrepSettings(language="zh")) if gate.name == "other_language")
    assert (gate.rows, gate.of, gate.fails) == (57, 60, True)


# --- gates and exit code


def test_every_gate_that_fails_is_told(nasty: tuple[Path, DataError]) -> None:
    root, error = nasty
    assert "13 of 111 rows cannot be used (11.7%): duplicate_id: 2" in error.what
    assert "8 of 91 images have a green box drawn on them" in error.what
    assert "5 of 85 captions are not in the language 'en'" in error.what
    assert error.where == f"{root}/{PREFIX}/index.html"
    assert Path(error.where).is_file()
    assert f"{root}/prepared/{KEY}/parts/*/quarantine.parquet" in error.remedy
    assert "prep.gates.refused above its 0.05 and prep.gates.green_box above its 0.05" in error.remedy
    assert read_manifest(LocalStorage(root), PREFIX) is not None, "the check itself is done"


@pytest.mark.parametrize("fails", [False, True])
def test_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: bool) -> None:
    rows = good()
    for row in rows[: 4 if fails else 3]:
        row["caption"] = "I'm sorry, but I cannot describe this image."
    write_parquet(tmp_path / "source.parquet", rows)
    words = [f"prep.source={tmp_path / 'source.parquet'}", f"storage.uri={tmp_path / 'store'}"]
    words += [f"model.path={BASE_MODEL}", "prep.gates.boilerplate=0.05"]
    assert cli.main(["prep", "--check", "--workers", "1", *words]) == (65 if fails else 0)
    printed = capsys.readouterr()
    (page,) = re.findall(r"^page: (.+)$", printed.out, re.MULTILINE)
    assert Path(page).is_file()
    assert re.search(
        rf"^boilerplate +{4 if fails else 3} of 60 .* {'FAILED' if fails else 'passed'}$", printed.out, re.M
    )
    assert ("4 of 60 captions say nothing of their image" in printed.err) == fails
    assert (str(page) in printed.err) == fails
    assert not list((tmp_path / "store").glob("prepared/*/manifest.json"))


def test_workers_is_the_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prep.workers=4", f"storage.uri={tmp_path / 'store'}"]
    assert cli.main(["prep", "--workers", "0", *words]) == 64
    assert "prep.workers" in capsys.readouterr().err
    assert cli.main(["prep", "--workers", "many", *words]) == 64


@pytest.mark.parametrize("module", ["prep.job", "cli", "pipeline.job"])
def test_prep_alone_does_not_load_what_only_the_check_needs(module: str) -> None:
    needed = {"jinja2", "py3langid", "tokenizers", "medvl_jobs.prep.check.job"}
    script = f"import sys, medvl_jobs.{module}; print(sorted({needed!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_check_needs_no_torch() -> None:
    heavy = {"torch", "transformers", "datasets", "huggingface_hub", "boto3", "tokenizers"}
    script = f"import sys, medvl_jobs.prep.check.job; print(sorted({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- little or nothing to look at


def test_zero_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="the source has no rows"):
        checked(settings_of(tmp_path, []))
    assert "Cannot be trained on: the source has no rows" in capsys.readouterr().out
    text = page_of(tmp_path / "store")
    assert "<svg" not in text
    assert "Rows worth a look" not in text


def test_all_rows_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [record(number, image=None, caption=None, id=None) for number in range(5)]
    with pytest.raises(DataError, match="none of 5 rows can be used: missing_id: 5"):
        checked(settings_of(tmp_path, rows))
    assert "refused" in capsys.readouterr().out
    text = page_of(tmp_path / "store")
    assert text.count("(no id)") == 5
    assert text.count("(no caption)") == 5
    assert text.count('class="frame empty">no image<') == 5
    assert "<img" not in text
    assert "<svg" not in text


def test_rows_refused_without_any_gate(tmp_path: Path) -> None:
    rows = [record(number, caption="") for number in range(5)]
    with pytest.raises(DataError, match="none of 5 rows can be used: caption_empty: 5"):
        checked(settings_of(tmp_path, rows, gates={"refused": None}))
    assert "Cannot be trained on: none of 5 rows can be used" in page_of(tmp_path / "store")


# --- the table


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [sound(number, facts=None) for number in range(40)]
    rows[0]["caption"], rows[1]["image"] = "", rows[2]["image"]
    with pytest.raises(DataError):
        checked(settings_of(tmp_path, rows, gates={"refused": 0.001, "duplicate": None}))
    assert (
        capsys.readouterr().out
        == f"""\
dataset check of source.parquet, key ab12

source       1 file of parquet
columns      image, id, caption, group in all rows, facts in no row
rows         read 40, accepted 39, refused 1, left out 0
split        train 31 in 8 groups, val 8 in 2 groups
refused      caption_empty 1
came as      PNG L 39
converted    none: all images are kept to the last bit
image size   longer side 128 to 256 pixels, median 192, 95 % up to 256
captions     16 to 77 words, median 56, 95 % up to 77
tokens       26 to 127 tokens, median 92, 95 % up to 127 (estimated at 1.65 a word)
languages    en 39 of 39 captions
openings     'Axial T1-weighted magnetic resonance (MR) image …' begins 18 % of them
exact copies 1 row, 0 across the split: 0 rows moved
near copies  0 rows, 0 across the split: 0 rows left out

gate              found  share  limit  verdict
refused         1 of 40  2.5 %  0.1 %  FAILED
green_box       0 of 39    0 %    5 %  passed
duplicate       1 of 39  2.6 %   none  not judged
boilerplate     0 of 39    0 %    5 %  passed
other_language  0 of 39    0 %    5 %  passed

Fails 1 gate (refused): 1 of 40 rows cannot be used (2.5 %, limit 0.1 %).

page: {tmp_path}/store/checks/ab12/index.html
"""
    )


def test_the_table_is_plain_and_narrow(nasty: tuple[Path, DataError], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError):
        checked(nasty_settings(nasty[0].parent))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("page: ")) <= WIDTH
    assert all(line.isprintable() for line in lines)


def test_a_caption_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = good(20)
    for row in rows:
        row["caption"] = "\N{RIGHT-TO-LEFT OVERRIDE}txet of a harmless looking caption"
    checked(settings_of(tmp_path, rows, gates={"duplicate": None}))
    assert "'?txet of a harmless looking caption …'" in capsys.readouterr().out


# --- the page


def test_nothing_from_data_becomes_markup(nasty: tuple[Path, DataError]) -> None:
    elements = Elements(page_of(nasty[0]))
    assert not elements.all("script")
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert all((image["src"] or "").startswith("data:image/webp;base64,") for image in elements.all("img"))
    assert "default-src 'none'" in (elements.all("meta")[1]["content"] or "")
    for _, attributes in elements.found:
        for name in {"src", "href"} & set(attributes):
            assert (attributes[name] or "").startswith(("data:", "#"))


def test_every_fault_is_shown(nasty: tuple[Path, DataError]) -> None:
    text = page_of(nasty[0])
    groups = re.findall(r"<h3>(.*?)(?: <data value=\"(\d+)\">.*?)?</h3>", text)
    assert groups == [
        ("A green box is drawn on the image", "8"),
        ("The caption says nothing of the image", "4"),
        ("The caption is in another language", "5"),
        ("Nearly the same picture in train and in val", "7"),
        ("The same picture again, pixel by pixel", "3"),
        ("Refused rows", "13"),
        ("The shortest captions", ""),
        ("The longest captions", ""),
        ("The smallest images", ""),
    ]
    shown = [len(re.findall(r"<li", part)) for part in text.split('<ol class="rows">')[1:]]
    assert shown == [6, 4, 5, 6, 3, 13, 6, 6, 6]
    assert text.count("bits apart") == 6
    assert "another part or file has had this id before" in text
    assert "part 00001-00000, row 0" in text
    for label in ("does not decode", "too large to decode", "no image", "extreme aspect"):
        assert f'<p class="frame empty">{label}</p>' in text


def test_a_row_is_read_back_from_where_it_lies(nasty: tuple[Path, DataError]) -> None:
    """In the second row group of its part."""
    first = page_of(nasty[0]).split("The shortest captions")[1].split("<figure>")[1]
    assert ">Tiny.<" in first
    assert "part 00000-00000, row 84<br>28 × 40 px" in first


def test_every_image_has_a_description_and_every_table_headers(nasty: tuple[Path, DataError]) -> None:
    text = page_of(nasty[0])
    elements = Elements(text)
    assert all(image["alt"] for image in elements.all("img"))
    assert [svg["role"] for svg in elements.all("svg")] == ["img"] * 3
    assert all(svg["aria-label"] for svg in elements.all("svg"))
    assert text.count("<thead>") == text.count("<table") == text.count("<caption")
    assert all(head.get("scope") for head in elements.all("th"))
    names = [attributes["id"] for _, attributes in elements.found if attributes.get("id")]
    assert len(names) == len(set(names))
    assert all((link["href"] or "").removeprefix("#") in names for link in elements.all("a"))


def test_rows_that_stay_are_shown_as_well(tmp_path: Path) -> None:
    """Policy ``keep``: nothing is left out, so a reader must see what is on both sides."""
    settings = nasty_settings(tmp_path, duplicates={"near": "keep", "exact": "keep"})
    with pytest.raises(DataError):
        checked(settings)
    text = page_of(tmp_path / "store")
    near = text.split("Nearly the same picture in train and in val")[1].split('class="fault"')[0]
    assert near.count("<br>train") == near.count("<br>val") == 6
    assert "<br>left out" not in near


def test_the_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "THUMBNAIL_BUDGET_BYTES", 20_000)
    checked(settings_of(tmp_path, good(30)))
    text = page_of(tmp_path / "store")
    assert 0 < text.count("<img ") < text.count('class="frame empty">left out: the page would grow too large<')
    assert len(text) < 60_000


# --- the small parts


def test_histograms_say_each_bin() -> None:
    summary = {"min": 3, "median": 7, "mean": 9.0, "p95": 30, "max": 30, "histogram": {"<=5": 1, "<=10": 198, ">10": 1}}
    svg = histogram(summary, "Words", "words")
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "Words: 3 to 30 words, median 7", "up to 5 words: 1", "up to 10 words: 198", "above 10 words: 1",
    ]  # fmt: skip
    assert re.findall(r'class="label"[^>]*>(.*?)<', svg) == [
        "&lt;1\N{NO-BREAK SPACE}%",
        "99\N{NO-BREAK SPACE}%",
        "&lt;1\N{NO-BREAK SPACE}%",
    ]


def test_shares_read_well() -> None:
    nbsp = "\N{NO-BREAK SPACE}"
    assert [share(rows, 1000) for rows in (0, 1, 500, 999, 1000)] == [
        f"0{nbsp}%", f"<1{nbsp}%", f"50{nbsp}%", f">99{nbsp}%", f"100{nbsp}%",
    ]  # fmt: skip
    assert [percent(value) for value in (0.05, 0.0667, 0, 1)] == [
        f"5{nbsp}%",
        f"6.7{nbsp}%",
        f"0{nbsp}%",
        f"100{nbsp}%",
    ]


def test_captions_are_cut_at_a_word() -> None:
    assert shortened("one two,\n three", 80) == "one two, three"
    assert shortened("the left lung, the right lung", 17) == "the left lung…"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"


def test_twins_are_found() -> None:
    again, origin = repeats(np.array([5, 7, 5, 9, 7, 5]))
    assert (again.tolist(), origin.tolist()) == ([2, 4, 5], [0, 1, 0])
    assert [each.tolist() for each in repeats(np.array([], np.int64))] == [[], []]
    assert nearest(np.uint64(0b1111), np.array([0, 0b1110, 0b0111], np.uint64)) == (1, 1)
