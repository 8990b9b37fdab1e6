"""The words by which a caption names what `contracts.facts` knows: one table per field.

Each entry is a canonical name and a regular expression of the words for it, matched as whole words against the text
that `reading.normalise` makes: lower case, hyphens as spaces, American "center". Look-aheads keep out the expressions
that merely contain a word: the *frontal* lobe is no frontal view, a *lung* window shows no lung, the *transverse* colon
no transverse plane.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NODULE = "lung nodule"
"""A region of interest, but no structure: a caption that lists what is in view does not list it."""

_SCAN = (
    r"(?: (?:contrast enhanced|non contrast|t[12] weighted|plain|chest|brain|head|abdominal))*"
    r" (?:views?|projections?|planes?|sections?|slices?|scans?|images?|radiographs?|x ?rays?|cts?|mri?|computed"
    r"|magnetic)"
)
"""What must follow "frontal" and "lateral" before they mean a view."""

MODALITIES = {
    "PET": r"pet[/ ]ct|pet(?= (?:scan|image|study|slice))|positron emission tomography",
    "CT": r"cta?|cts|computed tomograph(?:y|ic)|computeri[sz]ed tomography|cat scan",
    "MR": r"mr|mri|mra|magnetic resonance|t[12] (?:weighted|flair)|flair",
    "X-ray": r"x ?rays?|radiographs?|radiography|plain films?|cxr|mammogra(?:ms?|phy|phic)",
    "ultrasound": r"ultraso(?:und|nic|nograph(?:y|ic))|sonogra(?:ms?|phy|phic)|echocardiogra(?:ms?|phy)"
    r"|us(?= (?:scan|image))",
    "histopathology": r"(?:histo)?pathology|histopathologic(?:al)?|histolog(?:y|ic|ical)|h ?(?:&|and) ?e|hematoxylin"
    r"|microscop(?:y|ic)|photomicrographs?|whole slide",
    "fundus": r"(?:colou?r |retinal )fundus|fundus (?:photographs?|photography|images?|photos?)|retinal photographs?",
    "OCT": r"oct|optical coherence tomography",
    "endoscopy": r"(?:colon|gastr)?o?endoscop(?:y|ic)|colonoscop(?:y|ic)|gastroscop(?:y|ic)",
    "dermoscopy": r"derm(?:at)?oscop(?:y|ic)",
}

PLANES = {
    "axial": r"(?:trans)?axial(?! skeleton)|horizontal (?:plane|section|slice)"
    r"|transverse(?! (?:colon|process|processes|sinus|sinuses|mesocolon|diameter))",
    "coronal": rf"coronal(?! sutures?)|frontal(?={_SCAN}\b)|(?:ap|pa|anteroposterior|posteroanterior)(?={_SCAN}\b)",
    "sagittal": rf"(?:mid ?|para)?sagittal(?! (?:sutures?|sinus))|lateral(?={_SCAN}\b)",
}

BODY_PARTS = {
    "chest": r"chest|thorax|thoracic(?! (?:spine|vertebra[el]?|aorta))",
    "abdomen": r"abdomen|abdominal(?! aorta)",
    "pelvis": r"(?<!renal )pelvis|pelvic",
    "brain": r"brain|intracranial|cranial|cranium|skull|cerebral|cerebrum"
    r"|(?<!pancreatic )(?<!femoral )(?<!humeral )head(?! of)",
    "neck": r"(?<!femoral )neck(?! of)",
    "spine": r"(?:cervical|thoracic|lumbar|lumbosacral|whole) spine",
    "breast": r"breasts?|mammogra(?:ms?|phy|phic)",
    "retina": r"retinal?|fundus (?:photographs?|photography)",
    "knee": r"knees?",
    "hip": r"hips?",
    "shoulder": r"shoulders?(?! blades?)",
}

FINDINGS = {
    "nodule": r"nodules?|nodular",
    "hemorrhage": r"ha?emorrhages?|ha?emorrhagic|bleeding|ha?ematomas?",
    "tumor": r"tumou?rs?|mass(?:es)?(?! effect)|neoplas(?:ms?|tic)|cancers?|carcinomas?|gliomas?|glioblastomas?"
    r"|meningiomas?|metastas[ei]s|metastatic|lymphomas?",
    "effusion": r"effusions?",
    "fracture": r"fractures?|fractured",
    "pneumonia": r"pneumonias?|consolidations?",
    "pneumothorax": r"pneumothora(?:x|ces)",
    "edema": r"o?edema",
    "infarction": r"infarct(?:s|ions?)?|isch[a]?emi[ac]|strokes?",
    "cyst": r"cysts?|cystic",
}


@dataclass(frozen=True)
class Structure:
    """One anatomical structure. It is paired, a left and a right one, when it has a word for ``both``."""

    name: str
    words: str
    both: str = ""
    """Words that name the pair when no side is said: "lungs", "basal ganglia"."""

    def sided(self, sides: Iterable[str]) -> tuple[str, ...]:
        """``right lung``, ``left lung``; the bare name when the structure has no sides or none was said."""
        return (self.both and tuple(f"{side} {self.name}" for side in sides)) or (self.name,)


_VESSEL = r"(?! (?:arter(?:y|ies|ial)|veins?|venous|vessels?|vasculature|trunk|embol\w+))"
_NO_LUNG = r"(?! (?:windows?|nodul\w+|cancers?|carcinomas?|mass(?:es)?|tumou?rs?|algorithm|kernel|settings?)\b)"
_SIDE_SAID = r"(?:(?<=left )|(?<=right )|(?<=bilateral )|(?<=both ))"


def _lobe(name: str, more: str = "", more_both: str = "") -> Structure:
    """A lobe of the brain. The bare adjective is not enough: there are frontal views and temporal bones."""
    words = rf"{name} (?:lobe|cortex|gyrus|pole|region|white matter)" + more
    return Structure(f"{name} lobe", words, rf"{name} (?:lobes|cortices|gyri|poles|regions)" + more_both)


STRUCTURES = (
    Structure(
        "lung",
        rf"lung(?: (?:upper|middle|lower) lobe| field| base| apex| parenchyma)?\b{_NO_LUNG}"
        r"|(?:upper|middle|lower) lobe(?: of the lung)?(?! of the)"
        rf"|{_SIDE_SAID}pulmonary(?: (?:parenchyma|field|lobe))?{_NO_LUNG}{_VESSEL}",
        r"lungs|lung (?:fields|bases|apices|zones)|pulmonary (?:fields|lobes)"
        r"|(?:upper|middle|lower) lobes(?: of (?:the|both) lungs)?",
    ),
    Structure("heart", r"heart|cardiac|(?:left|right) (?:atrium|ventricle)|myocardi(?:um|al)"),
    Structure("aorta", r"aorta|aortic"),
    Structure("trachea", r"trachea|tracheal"),
    Structure("esophagus", r"o?esophag(?:us|eal)"),
    Structure("liver", rf"liver|hepatic(?! flexure){_VESSEL}"),
    Structure("gallbladder", r"gall ?bladder"),
    Structure("spleen", rf"spleen|splenic(?! flexure){_VESSEL}"),
    Structure("stomach", rf"stomach|gastric{_VESSEL}"),
    Structure("pancreas", r"pancreas|pancreatic"),
    Structure("small bowel", r"small (?:bowels?|intestines?)|duoden(?:um|al)|jejun(?:um|al)|ile(?:um|al)"),
    Structure("colon", r"colon|colonic|large (?:bowel|intestine)|ca?ecum|sigmoid|(?:hepatic|splenic) flexure"),
    Structure("spine", rf"(?<!iliac )spine|spinal column|vertebra[es]?|vertebral{_VESSEL}"),
    Structure("kidney", rf"kidney|renal{_VESSEL}", "kidneys"),
    Structure("scapula", r"scapula|scapular|shoulder blade", r"scapula[es]|shoulder blades"),
    _lobe("frontal", "|prefrontal cortex", "|prefrontal cortices"),
    _lobe("parietal"),
    _lobe("temporal", "|hippocampus|hippocampal|amygdala", "|hippocampi|amygdalae"),
    _lobe("occipital"),
    Structure("insula", r"insula|insular(?: cortex)?", r"insula[es]|insular cortices"),
    Structure("cingulate cortex", r"cingulate(?: cortex| gyrus)?|cingulum", r"cingulate (?:cortices|gyri)"),
    Structure(
        "basal ganglia",
        r"basal ganglion|caudate(?: nucleus)?(?! lobe)|putamen|globus pallidus|pallidum|lentiform nucleus",
        r"basal ganglia|(?:caudate|lentiform) nuclei|putamina",
    ),
    Structure("thalamus", r"thalamus|thalamic", "thalami"),
    Structure(
        "cerebellum",
        "cerebellar hemisphere",
        r"cerebellum|cerebellar(?: hemispheres)?(?! (?:vermis|hemisphere|tonsils?)\b)",
    ),
    Structure("cerebellar vermis", r"(?:cerebellar )?vermis(?: of the cerebellum)?"),
    Structure(NODULE, r"(?:(?:lung|pulmonary) )?(?<!thyroid )nodules?"),
    # Beyond the demo: what MedTrinity's captions often name.
    Structure("bladder", r"(?:urinary )?bladder"),
    Structure("prostate", r"prostate|prostatic"),
    Structure("uterus", r"uterus|uterine"),
    Structure("thyroid", r"thyroid"),
    Structure("mediastinum", r"mediastinum|mediastinal"),
    Structure("brainstem", r"brain ?stem|pons|midbrain|medulla oblongata"),
    Structure("corpus callosum", r"corpus callosum"),
    Structure("spinal cord", r"spinal cord"),
    Structure("adrenal gland", r"adrenal(?: gland)?", r"adrenals|adrenal glands"),
    Structure("lateral ventricle", r"lateral ventricle", r"lateral ventricles"),
    Structure("rib", r"rib", r"ribs"),
    Structure("clavicle", r"clavicle|collarbone", r"clavicles|collarbones"),
    Structure("femur", r"femur|femoral head", r"femurs|femora|femoral heads"),
)
"""In the order in which a caption lists them; a side is always the patient's, the right one first.

The words gather the parts into the structure as the label maps do: the caudate into the basal ganglia, the hippocampus
into the temporal lobe, the duodenum into the small bowel. "The cerebellum" is both of its hemispheres.
"""

# --- sides -------------------------------------------------------------------------------------------------------

SIDES = {
    "left": ("left",),
    "right": ("right",),
    **dict.fromkeys(("both", "bilateral", "bilaterally", "on both sides"), ("right", "left")),
}
_BETWEEN = r"(?:(?:lobes? of the|upper|middle|lower|mid|superior|inferior|anterior|posterior|medial|lateral|dorsal) )*"
SIDE_BEFORE = re.compile(rf"\b(left|right|both|bilateral)(?: sided)? {_BETWEEN}$")
"""Trap: no bare "of the" in between, or the image's "upper left of the lung" would be the patient's left lung."""
SIDE_AFTER = re.compile(
    r" \((left|right)\)| on the (left|right)\b(?: side)?(?! of the image)| (bilaterally|on both sides)\b"
    r"| (left|right)(?= ?(?:[,;:)]|$|(?:and|in|next|located)\b))"
)

# --- negation ----------------------------------------------------------------------------------------------------

_SHOW = r"(?:show|depict|include|contain|reveal|demonstrate|display|indicate|have|see|identify)"
_SEEN = (
    r"(?:seen|visible|present|shown|visuali[sz]ed|identified|marked|evident|noted|detected|observed|included|depicted"
    r"|demonstrated|in view)"
)
_VERB = (
    rf"is|are|was|were|lies?|occup\w+|cover\w*|{_SHOW}(?:s|ed)?|showing|depicting|including|revealing|demonstrating"
    rf"|displaying|indicating|{_SEEN}"
)
_TURN = r"but|only|however|although|though|while|whereas|except|yet"

DENIES_AFTER = re.compile(
    r"\b(?:no(?! (?:significant |interval )?(?:change|increase|growth|longer))"
    r"|without(?! (?:intravenous |iv )?contrast)|nor|neither|absence of|lack(?:s|ing)?(?: of)?|free of|free from"
    r"|negative for|rather than|rules? out|excludes?|not (?:an?|any|the)\b"
    rf"|(?:(?:does|do|did|can|could) ?not|(?:doesn|don|didn|can|couldn)'t|not) {_SHOW}\w*)\b"
)
"""Denies what comes after it."""
DENIES_BEFORE = re.compile(
    rf"\b(?:is|are|was|were|be)?(?: ?not|n't)(?: \w+ly)? {_SEEN}\b|\bcannot be {_SEEN}\b"
    r"|\b(?:is|are|was|were) (?:absent|excluded|ruled out)\b|\babsent\b"
)
"""Denies what comes before it. Trap: "not" alone does neither, "the nodule is not calcified" is about a nodule."""
DENIAL_ENDS = re.compile(rf"[;:]|\b(?:{_TURN}|{_VERB}|in|within|on|by|at|along|throughout|involving)\b")
CLAUSE_STARTS = re.compile(rf"[;:]|\b(?:{_TURN}|{_VERB})\b")

# --- region of interest ------------------------------------------------------------------------------------------

REGION = re.compile(
    r"\bregions? of interest\b|\broi\b|\blargest\b|\b(?:marked|annotated|highlighted) (?:area|region)\b"
)
LESION = re.compile(rf"\b(?:lesions?|abnormalit(?:y|ies)|opacit(?:y|ies)|{'|'.join(FINDINGS.values())})\b")
GOES_ON = re.compile(r"\s*(?:it|its|(?:this |the )?(?:area|region|lesion|roi|position|location|size))\b")
"""A sentence that begins so still speaks of the region."""
NEIGHBOUR = re.compile(r"\b(?:next to|adjacent to|near|close to|beside|behind|relative to)(?: the| a)? $")

ROWS = {
    **dict.fromkeys(("upper", "top", "superior"), "upper"),
    **dict.fromkeys(("lower", "bottom", "inferior"), "lower"),
    **dict.fromkeys(("middle", "mid", "center", "central"), "middle"),
}
COLUMNS = {"left": "left", "right": "right", **dict.fromkeys(("middle", "mid", "center", "central"), "center")}
_ROW, _COLUMN = "|".join(ROWS), "|".join(COLUMNS)
_IMAGE = r"(?:image|picture|slice|scan|frame)"
_PLACE = rf"(?:part|portion|area|region|side|third|half|section|corner|edge|of (?:the|this) {_IMAGE})"
ROW_COLUMN = re.compile(rf"\b({_ROW}) ({_COLUMN})\b")
COLUMN_ROW = re.compile(
    rf"\b(left|right) ({_ROW}) {_PLACE}\b|\b(?:mid|middle|center|central) (upper|top|lower|bottom)\b"
)
"""Trap: "right upper quadrant" without such a word is a place in the patient."""
ONE_AXIS = re.compile(
    rf"\b({_ROW}|left|right) {_PLACE}\b(?! of the (?:patient|body))|\b(central)ly\b|\b(?:in|at) the (center|middle)\b"
)

_PERCENT = (
    r"(?P<under>(?:less than|under|below|<) ?)?(?P<low>\d+(?:[.,]\d+)?)"
    r"(?:(?:-| to | ?% ?to )(?P<high>\d+(?:[.,]\d+)?))? ?(?:%|percent\b|per cent\b)"
)
AREAS = (
    re.compile(rf"{_PERCENT} of (?:the |its |this )?(?:\w+ )?(?:image|area|picture|slice|frame|field|scan|view)\b"),
    re.compile(_PERCENT),
)
"""A share of the image, or else any percentage."""
