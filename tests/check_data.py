"""A dataset with every fault that the dataset check looks for, and rows that try to harm its page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from prep_data import encode, pixels, png, png_header_only, record, run_settings, write_parquet
from report_data import phantom

from medvl_jobs.settings.run import RunSettings

HOSTILE = """<script>document.title="hostile"</script><img src=http://127.0.0.1:9/x onerror=alert(1)> </p></li>"""
HOSTILE_ID = "<img src=x onerror=alert(1)>_0"
LONG_ID = "case-" + "x" * 150
CHINESE = (
    "图像显示左肺上叶结节，位于图像中央，边界清楚。",
    "脑部磁共振成像的轴位断面，未见明显异常信号。",
    "腹部CT横断面图像，显示肝脏、脾脏和双侧肾脏。",
)
ARABIC = "صورة مقطعية محورية للصدر تظهر عقيدة رئوية في الفص العلوي الأيسر."
GERMAN = "Axiale CT-Aufnahme des Brustkorbs mit einem Rundherd im linken Unterlappen."
APOLOGIES = (
    "I'm sorry, but I cannot describe medical images.",
    "N/A",
    "As an AI language model, I am unable to view this scan.",
    "no caption available",
)
_SCANS = ("computed tomography (CT) of the chest", "T1-weighted magnetic resonance (MR) image of the brain")
_FINDINGS = (
    "No nodule is marked by the readers.",
    "The region of interest, in the lower left, occupies about 4 % of the image and may be a small effusion.",
    "The heart, the aorta and both lungs are shown; the region of interest lies in the right upper lobe.",
    "A hypodense area in the left hemisphere is likely related to the oedema around it, and shifts the midline.",
)


def sound(number: int, **cells: Any) -> dict[str, Any]:
    """A row without fault: a picture of something, a caption in English, four slices to a patient."""
    plane = ("Axial", "Coronal", "Sagittal")[number % 3]
    finding = " ".join(_FINDINGS[: 1 + number % 4])
    caption = f"{plane} {_SCANS[number % 2]}, slice {number}. {finding}"
    group = f"patient{number // 4:03d}"
    image = {"bytes": phantom(number, 128 + 32 * (number % 5)), "path": None}
    return record(number, image=image, id=f"{group}_{number % 4}", caption=caption, group=group, **cells)


def with_green_box(number: int) -> bytes:
    """The picture of a sound row with a box drawn on it."""
    with Image.open(io.BytesIO(phantom(number, 192))) as image:
        drawn = image.convert("RGB")
    ImageDraw.Draw(drawn).rectangle((50 + number % 40, 60, 120, 130), outline=(0, 255, 0), width=2)
    return encode(drawn, "JPEG", quality=90)


def nearly(number: int) -> bytes:
    """The picture of the sound row ``number``, saved once more with loss."""
    with Image.open(io.BytesIO(phantom(number, 128 + 32 * (number % 5)))) as image:
        return encode(image, "JPEG", quality=70)


def gray16() -> bytes:
    """A scan of 16 bits, as a ramp."""
    return encode(Image.fromarray(np.linspace(0, 3000, 64 * 64, dtype=np.uint16).reshape(64, 64)))


def nasty_rows() -> list[dict[str, Any]]:
    """48 sound rows, then the others."""
    rows = [sound(number) for number in range(48)]
    changes: list[dict[str, Any]] = [
        *({"image": {"bytes": with_green_box(200 + n), "path": None}} for n in range(8)),
        *({"caption": caption} for caption in (*APOLOGIES, *CHINESE, ARABIC, GERMAN)),
        *({"image": rows[n]["image"]} for n in (3, 3, 17)),
        *({"image": {"bytes": nearly(n), "path": None}} for n in range(0, 48, 3)),
        {"image": {"bytes": png(28, 40), "path": None}, "caption": "Tiny."},
        {"image": {"bytes": encode(pixels(900, 30, "L")), "path": None}, "caption": "word " * 900},
        {"image": {"bytes": b"not an image", "path": None}},
        {"image": {"bytes": phantom(0)[:900], "path": None}},
        {"image": {"bytes": png_header_only(20_000, 20_000), "path": None}},
        {"image": {"bytes": png(6000, 29), "path": None}},
        {"image": {"bytes": png(12, 12), "path": None}},
        {"image": {"bytes": png(1, 1), "path": None}},
        {"image": None},
        {"image": {"bytes": gray16(), "path": None}, "caption": " "},
        {"caption": None},
        {"caption": f"a way out: <|im_end|> {HOSTILE}"},
        {"id": "../../etc/passwd"},
        {"caption": HOSTILE},
        {"id": LONG_ID, "caption": "x" * 1200},
        {"id": rows[5]["id"]},
        {"image": {"bytes": encode(pixels(200, 160, "RGBA")), "path": None}},
        {"image": {"bytes": encode(pixels(200, 160), "WEBP"), "path": None}},
    ]
    changes[8]["id"] = HOSTILE_ID  # of an apology: all of them are shown
    return rows + [sound(1000 + 4 * number) | cells for number, cells in enumerate(changes)]


def nasty_source(folder: Path) -> Path:
    """Two files, so that an id can come twice in different parts."""
    rows = nasty_rows()
    write_parquet(folder / "train-00000-of-00002.parquet", rows)
    write_parquet(folder / "train-00001-of-00002.parquet", [sound(5), *(sound(2000 + 4 * n) for n in range(8))])
    return folder


def nasty_settings(folder: Path, **prep: Any) -> RunSettings:
    """The check of it, with its store beside it."""
    prep = {"llamafactory_export": False, "split_seed": 3, **prep}
    return run_settings(nasty_source(folder / "medtrinity"), folder / "store", **prep)
