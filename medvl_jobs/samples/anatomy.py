"""The structures that a caption names, and how the packages' label maps are gathered into them.

A side is always the patient's: ``left lung`` is on the *image's* right in an axial or coronal view.
"""

from __future__ import annotations

NODULE = "lung nodule"

_SINGLE_CT = (
    "heart",
    "aorta",
    "trachea",
    "esophagus",
    "liver",
    "gallbladder",
    "spleen",
    "stomach",
    "pancreas",
    "small bowel",
    "colon",
    "spine",
)
_PAIRED_MR = (
    "frontal lobe",
    "parietal lobe",
    "temporal lobe",
    "occipital lobe",
    "insula",
    "cingulate cortex",
    "basal ganglia",
    "thalamus",
    "cerebellum",
)


def _both(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{side} {name}" for name in names for side in ("right", "left"))


STRUCTURES = (
    *_both(("lung",)),
    *_SINGLE_CT,
    *_both(("kidney", "scapula")),
    *_both(_PAIRED_MR),
    "cerebellar vermis",
    NODULE,
)
"""In the order in which a caption lists them."""

_CT_GROUPS = {
    "lung": ("lung_",),
    "kidney": ("kidney_left", "kidney_right"),
    "scapula": ("scapula_",),
    "heart": ("heart", "atrial_appendage"),
    "spine": ("vertebrae_",),
    "small bowel": ("small_bowel", "duodenum"),
    **{name: (name,) for name in _SINGLE_CT if name not in {"heart", "spine", "small bowel"}},
}
_AAL3_GROUPS = {
    "frontal lobe": ("Precentral", "Frontal", "Rolandic", "Supp_Motor", "Olfactory", "Rectus", "OFC", "Paracentral"),
    "insula": ("Insula",),
    "cingulate cortex": ("Cingulate", "ACC"),
    "temporal lobe": ("Hippocampus", "ParaHippocampal", "Amygdala", "Fusiform", "Heschl", "Temporal"),
    "occipital lobe": ("Calcarine", "Cuneus", "Lingual", "Occipital"),
    "parietal lobe": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus"),
    "basal ganglia": ("Caudate", "Putamen", "Pallidum", "N_Acc"),
    "thalamus": ("Thal",),
    "cerebellum": ("Cerebellum",),
    "cerebellar vermis": ("Vermis",),
}


def _structure(label: str, side: str | None, groups: dict[str, tuple[str, ...]]) -> str | None:
    """The structure whose group a label's name falls into, with its side in front where it has one."""
    for structure, prefixes in groups.items():
        if label.startswith(prefixes):
            return next((name for name in (f"{side} {structure}", structure) if name in STRUCTURES), None)
    return None


def ct_structure(label: str) -> str | None:
    """TotalSegmentator's ``lung_upper_lobe_left`` -> ``left lung``; ``None`` for what captions leave out (ribs, …)."""
    side = next((side for side in ("left", "right") if side in label.split("_")), None)
    return _structure(label, side, _CT_GROUPS)


def aal3_structure(label: str) -> str | None:
    """AAL3's ``Frontal_Sup_2_L`` -> ``left frontal lobe``; ``None`` for brainstem nuclei, which captions leave out."""
    side = {"L": "left", "R": "right"}.get(label.rsplit("_", 1)[-1])
    return _structure(label, side, _AAL3_GROUPS)
