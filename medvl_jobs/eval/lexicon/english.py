"""English words for the names of the vocabulary: one table per field.

Each entry is a canonical name and a regular expression of the words for it, matched as whole words against the text
that `reading.normalise` makes: lower case, hyphens as spaces, American "center". Look-aheads keep out the expressions
that merely contain a word: the *frontal* lobe is no frontal view, a *lung* window shows no lung, the *transverse* colon
no transverse plane.
"""

from __future__ import annotations

_SCAN = (
    r"(?: (?:contrast enhanced|non contrast|t[12] weighted|plain|portable|supine|upright|chest|brain|head|abdominal))*"
    r" (?:views?|projections?|planes?|sections?|slices?|scans?|images?|radiographs?|x ?rays?|cts?|mri?|computed"
    r"|magnetic)"
)
"""What must follow "frontal" and "lateral" before they mean a view."""

MODALITIES = {
    "PET": r"pet[/ ]ct|fdg pet|pet(?= (?:scan|image|study|slice))|positron emission tomography",
    "CT": r"(?:hr|ce|nc|cb)?ct|cta|cts|computed tomograph(?:y|ic)|computeri[sz]ed tomography|cat scan",
    "MR": r"mr|mri|mra|magnetic resonance|t[12]wi?|t[12] (?:weighted|flair|images?|sequences?|scans?|views?)|flair"
    r"|dwi|diffusion weighted",
    "X-ray": r"x ?rays?|radiographs?|radiography|plain films?|cxr|mammogra(?:ms?|phy|phic)",
    "ultrasound": r"ultraso(?:und|nic|nograph(?:y|ic))|sonogra(?:ms?|phy|phic)|echocardiogra(?:ms?|phy)"
    r"|us(?= (?:scan|image))",
    "histopathology": r"histopatholog(?:y|ic|ical)|histolog(?:y|ic|ical)|h ?(?:&|and) ?e|hematoxylin"
    r"|patholog(?:y|ic|ical)(?= (?:slides?|sections?|specimens?|samples?|images?))|digital pathology"
    r"|microscop(?:y|ic)|photomicrographs?|whole slide",
    "fundus": r"(?:colou?r |retinal )fundus|fundus (?:photographs?|photography|images?|photos?)"
    r"|retinal (?:photographs?|images?)",
    "OCT": r"oct|optical coherence tomography",
    "endoscopy": r"(?:colon|gastr)?o?endoscop(?:y|ic)|colonoscop(?:y|ic)|gastroscop(?:y|ic)",
    "dermoscopy": r"derm(?:at)?oscop(?:y|ic|es?)",
}

PLANES = {
    "axial": r"(?:trans)?axial(?! skeleton)|horizontal (?:plane|section|slice)"
    r"|cross section(?=s? of the (?:body|brain|head|neck|chest|thorax|abdomen|pelvis))"
    r"|cross sectional(?= (?:view|image|slice|scan|ct|mri?|computed|magnetic))"
    r"|transverse(?! (?:colon|process|processes|sinus|sinuses|mesocolon|diameter))",
    "coronal": rf"coronal(?! sutures?)|frontal(?={_SCAN}\b)|(?:ap|pa|anteroposterior|posteroanterior)(?={_SCAN}\b)",
    "sagittal": rf"(?:mid ?|para)?sagittal(?! (?:sutures?|sinus))|lateral(?={_SCAN}\b)",
}

BODY_PARTS = {
    "chest": r"chest|thorax|thoracic(?! (?:spine|vertebra[el]?|aorta))",
    "abdomen": r"abdomen|abdominal(?! aorta)",
    "pelvis": r"(?<!renal )pelvis|pelvic",
    "brain": r"brain|intracranial|cranial|cranium|skull|cerebral|cerebrum"
    r"|(?<!pancreatic )(?<!femoral )(?<!humeral )(?<!radial )head(?! of)",
    "neck": r"(?<!femoral )neck(?! of)",
    "spine": r"(?:cervical|thoracic|lumbar|lumbosacral|whole) spine",
    "breast": r"breasts?|mammogra(?:ms?|phy|phic)",
    "retina": r"retinal?|fundus (?:photographs?|photography|images?|photos?)",
    "knee": r"knees?",
    "hip": r"hips?",
    "shoulder": r"shoulders?(?! blades?)",
    "ankle": r"ankles?",
    "foot": r"foot|feet",
    "hand": r"hands?(?= (?:x ?ray|radiograph|film|is|are|shows?))"
    r"|(?:(?<=of a )|(?<=of the )|(?<=left )|(?<=right ))hands?(?! side)"
    r"|wrists?",
    "elbow": r"elbows?",
}

FINDINGS = {
    "nodule": r"nodules?|nodular",
    "hemorrhage": r"ha?emorrhages?|ha?emorrhagic|bleed(?:s|ing)?|ha?ematomas?",
    "tumor": r"tumou?rs?|mass(?:es)?(?! effect)|neoplas(?:ms?|tic)|cancers?|(?:adeno)?carcinomas?|gliomas?"
    r"|glioblastomas?|meningiomas?|metastas[ei]s|metastatic|lymphomas?|melanomas?|sarcomas?|adenomas?"
    r"|(?<!non )cancerous|malignant (?:cells|lesions?|growths?|tissue)|malignanc(?:y|ies)",
    "effusion": r"effusions?",
    "fracture": r"fractures?|fractured",
    "pneumonia": r"pneumonias?|consolidations?",
    "pneumothorax": r"pneumothora(?:x|ces)",
    "edema": r"o?edema",
    "infarction": r"infarct(?:s|ions?)?|isch[a]?emi[ac]|strokes?",
    "cyst": r"cysts?|cystic",
    "emphysema": r"emphysema(?:tous)?",
    "atelectasis": r"atelectas[ei]s|atelectatic",
    "cardiomegaly": r"cardiomegaly",
    "hydrocephalus": r"hydrocephalus",
    "atrophy": r"atroph(?:y|ic)",
    "calcification": r"calcifications?",
}

NORMAL = (
    r"\b(?:no|without|not (?:show|reveal|demonstrate|depict|display|contain|have)) (?:\w+ ){0,3}?"
    r"(?:abnormalit(?:y|ies)|abnormal (?:findings?|areas?|regions?|densit(?:y|ies)|signals?))\b|\bunremarkable\b"
    r"|(?<!not )(?<!not a )\bnormal (?:\w+ ){0,2}?(?:study|scan|image|exam|examination|radiograph|x ray|ct|mri?)\b"
    r"|\b(?:study|scan|image|exam|examination|radiograph|x ray|ct|mri?) (?:is|appears|looks)(?: \w+ly)? normal\b"
    r"|\b(?:diagnosis|impression|conclusion|findings?): ?normal\b"
)

_VESSEL = r"(?! (?:arter(?:y|ies|ial)|veins?|venous|vessels?|vasculature|trunk|embol\w+))"
_NO_LUNG = r"(?! (?:windows?|nodul\w+|cancers?|carcinomas?|mass(?:es)?|tumou?rs?|algorithm|kernel|settings?)\b)"
LESION_NOUN = r"(?:contusions?|lesions?|ha?emorrhages?|ha?ematomas?|bleeds?|infarcts?|infarctions?|tumou?rs?|o?edema)"
_SIDE_SAID = r"(?:(?<=left )|(?<=right )|(?<=bilateral )|(?<=both ))"


def _lobe(name: str, more: str = "", more_both: str = "") -> tuple[str, str]:
    """A lobe of the brain. The bare adjective is not enough: there are frontal views and temporal bones."""
    words = rf"{name} (?:lobe|cortex|gyrus|pole|region|white matter)|{name}(?= {LESION_NOUN}\b)" + more
    return words, rf"{name} (?:lobes|cortices|gyri|poles|regions)" + more_both


STRUCTURES: dict[str, str | tuple[str, str]] = {
    "lung": (
        rf"lung(?: (?:upper|middle|lower) lobe| field| base| apex| parenchyma)?\b{_NO_LUNG}"
        r"|(?:upper|middle|lower) lobe(?: of the lung)?(?! of the)"
        rf"|(?:(?<=left )|(?<=right ))apex|{_SIDE_SAID}pulmonary(?: (?:parenchyma|field|lobe))?{_NO_LUNG}{_VESSEL}",
        r"lungs|lung (?:fields|bases|apices|zones)|pulmonary (?:fields|lobes)"
        r"|(?:upper|middle|lower) lobes(?: of (?:the|both) lungs)?(?! of the)",
    ),
    "heart": r"heart|cardiac|(?:left|right) (?:atrium|ventricle)|myocardi(?:um|al)",
    "aorta": r"aorta|aortic",
    "trachea": r"trachea|tracheal",
    "esophagus": r"o?esophag(?:us|eal)",
    "liver": rf"liver|hepatic(?! flexure){_VESSEL}",
    "gallbladder": r"gall ?bladder",
    "spleen": rf"spleen|splenic(?! flexure){_VESSEL}",
    "stomach": rf"stomach|gastric{_VESSEL}",
    "pancreas": r"pancreas|pancreatic",
    "small bowel": r"small (?:bowels?|intestines?)|duoden(?:um|al)|jejun(?:um|al)|ile(?:um|al)",
    "colon": r"colon|colonic|colorectal|large (?:bowel|intestine)|ca?ecum|sigmoid(?! sinus)"
    r"|(?:hepatic|splenic) flexure",
    "spine": rf"(?<!iliac )spine|spinal column|vertebra[es]?|vertebral{_VESSEL}",
    "kidney": (rf"kidney|renal{_VESSEL}", "kidneys"),
    "scapula": (r"scapula|scapular|shoulder blade", r"scapula[es]|shoulder blades"),
    "frontal lobe": _lobe("frontal", "|prefrontal cortex", "|prefrontal cortices"),
    "parietal lobe": _lobe("parietal"),
    "temporal lobe": _lobe("temporal", "|hippocampus|hippocampal|amygdala", "|hippocampi|amygdalae"),
    "occipital lobe": _lobe("occipital"),
    "insula": (r"insula|insular(?: cortex)?", r"insula[es]|insular cortices"),
    "cingulate cortex": (r"cingulate(?: cortex| gyrus)?|cingulum", r"cingulate (?:cortices|gyri)"),
    "basal ganglia": (
        r"basal ganglion|caudate(?: nucleus)?(?! lobe)|putamen|globus pallidus|pallidum|lentiform nucleus",
        r"basal ganglia|(?:caudate|lentiform) nuclei|putamina",
    ),
    "thalamus": (r"thalamus|thalamic", "thalami"),
    "cerebellum": (
        "cerebellar hemisphere",
        r"cerebellum|cerebellar(?: hemispheres)?(?! (?:vermis|hemisphere|tonsils?)\b)",
    ),
    "cerebellar vermis": r"(?:cerebellar )?vermis(?: of the cerebellum)?",
    "lung nodule": r"(?:(?:lung|pulmonary) )?(?<!thyroid )nodules?",
    "bladder": r"(?:urinary )?bladder",
    "prostate": r"prostate|prostatic",
    "uterus": r"uterus|uterine",
    "thyroid": r"thyroid",
    "mediastinum": r"mediastinum|mediastinal",
    "brainstem": r"brain ?stem|pons|midbrain|medulla oblongata",
    "corpus callosum": r"corpus callosum",
    "spinal cord": r"spinal cord",
    "optic disc": r"optic (?:dis[ck]|nerve head)",
    "macula": r"macula|macular",
    "cerebral hemisphere": (r"(?:cerebral )?hemisphere", r"(?:cerebral )?hemispheres"),
    "adrenal gland": (r"adrenal(?: gland)?", r"adrenals|adrenal glands"),
    "lateral ventricle": (r"lateral ventricle", r"lateral ventricles"),
    "rib": ("rib", "ribs"),
    "clavicle": (r"clavicle|collarbone", r"clavicles|collarbones"),
    "femur": (r"femur|femoral (?:head|neck|shaft|condyle)", r"femurs|femora|femoral (?:heads|necks|shafts|condyles)"),
}
"""A paired structure has its words for one, and those for the pair when no side is said: "lungs", "basal ganglia".

The words gather the parts into the structure as the label maps do: the caudate into the basal ganglia, the hippocampus
into the temporal lobe, the duodenum into the small bowel. "The cerebellum" is both of its hemispheres.
"""
