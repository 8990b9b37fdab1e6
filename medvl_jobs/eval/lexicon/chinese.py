"""Chinese words for the names of the vocabulary: one table per field.

Each entry is a canonical name and a regular expression of the words for it, matched anywhere in a sentence without
blanks, in lower case and with ASCII digits and punctuation: ``胸部ct轴位``. Look-arounds keep out the longer words that
contain a shorter one: 肾上腺 (adrenal gland) is no 肾 (kidney), 冠状动脉 (coronary artery) no 冠状 (coronal) plane.
Simplified characters only.
"""

from __future__ import annotations

_NOT_LATIN = r"(?<![a-z]){}(?![a-z])"
"""An abbreviation by itself: ``ct``, but not the ``ct`` of ``fact``."""
_CT, _MR, _OCT, _PET, _ROI = (_NOT_LATIN.format(each) for each in ("cta?", "(?:d?mri?|mra)", "oct", "pet", "roi"))

MODALITIES = {
    "PET": rf"pet[/-]?ct|{_PET}|正电子发射",
    "OCT": rf"{_OCT}|光学相干",
    "MR": rf"{_MR}|磁共振|核磁|t[12](?:加权|wi|像|flair|序列)|flair|{_NOT_LATIN.format('dwi')}|弥散加权",
    "CT": rf"{_CT}|计算机断层|电脑断层|计算机体层|断层扫描|断层成像",
    "X-ray": r"x[-光线射]|x-?ray|胸片|平片|位片|射线照片|钼靶|乳腺摄影",
    "ultrasound": r"超声|彩超|b超|声像图|多普勒",
    "histopathology": r"组织病理|病理(?:组织|学?切片|学?图|标本|玻片|染色)|组织学|显微|镜下|h&?e染色"
    r"|苏木[精素]|免疫组化|数字切片",
    "fundus": r"眼底",
    "endoscopy": r"内窥镜|内镜|胃镜|肠镜",
    "dermoscopy": r"皮肤镜",
}

PLANES = {
    "axial": r"轴[位向状面]|横轴|横断|横切|横截|水平[面位切]",
    "coronal": r"冠状(?!动脉|沟|缝)|正位(?![于置])|后前位|前后位|冠位",
    "sagittal": r"矢状(?!窦|缝)|侧位(?![于置])",
}

BODY_PARTS = {
    "chest": r"胸部|胸(?=腹部)|胸廓|胸片|胸(?=ct|x|mr)|胸腔(?!积液|少量|大量|内?可见积)|肺部?(?=ct)",
    "abdomen": r"腹部|腹腔|[上中下全]腹|腹(?=ct|mr)",
    "pelvis": r"盆腔|骨盆|盆部",
    "brain": r"大脑(?![前中后]动脉)|颅脑|头颅|颅[内骨脑底]|头(?=ct|mr)|(?<![胰骨肌])头部"
    r"|(?<![小丘间中端桥])脑(?!干|室|膜|脊|岛|桥|垂体|蚓)",
    "neck": r"(?<![骨囊宫])颈部|颈(?=ct|mr)",
    "spine": r"(?:颈|胸|腰|腰骶)椎(?!椎?体|骨)|全脊柱",
    "breast": r"乳腺|乳房|钼靶",
    "retina": r"视网膜|眼底",
    "knee": r"膝",
    "hip": r"髋(?!骨)",
    "shoulder": r"肩(?!胛)",
    "ankle": r"踝",
    "foot": r"足部|足(?=x|正|侧|ct|mr)",
    "hand": r"手部|手(?=x|正|侧)|手?腕(?:部|关节)",
    "elbow": r"肘",
}

FINDINGS = {
    "nodule": r"结节(?!性硬化)",
    "hemorrhage": r"出血|血肿|积血",
    "tumor": r"肿瘤|肿块|肿物|占位(?!效应)|(?<!动脉)(?<!血管)瘤|癌|恶性(?:细胞|病变)|转移|新生物",
    "effusion": r"积液",
    "fracture": r"骨折",
    "pneumonia": r"肺炎|实变",
    "pneumothorax": r"气胸",
    "edema": r"水肿",
    "infarction": r"梗[死塞]|缺血|卒中|中风",
    "cyst": r"囊肿|囊性",
    "emphysema": r"(?<!皮下)(?<!纵隔)气肿",
    "atelectasis": r"不张|膨胀不全",
    "cardiomegaly": r"心脏(?:增大|扩大|肥大)|心影增大",
    "hydrocephalus": r"脑积水",
    "atrophy": r"萎缩",
    "calcification": r"钙化",
}

_PICTURE = r"(?:ct|mri?|x光片?|x线片?|胸片|平片|图像|影像|图片|扫描|检查|结果|表现|所见)"
NORMAL = (
    r"(?:未见|未发现|没有|无)(?:任何|明显|明确|显著|其他|发现|可见|的|到)*异常"
    rf"|(?:大致|基本)正常|(?<!不)(?<!非)正常的?[^,;。]{{0,8}}?{_PICTURE}|{_PICTURE}(?:显示|均|为|是|完全)*正常"
    r"|(?:诊断|结论|印象|结果|所见)(?:可能|[:为是])*正常"
)

STRUCTURES = {
    "lung": r"肺(?:[上中下]叶|部|野|实质|组织|尖|底|叶|脏|内)?"
    r"(?!结节|结核|炎|气肿|不张|癌|动脉|静脉|窗|门|栓|血管|水肿|肿[瘤块]|ct|部ct|部结节)"
    r"|(?<=[左右])[上中下]叶(?!静脉)|(?<=[左右])侧[上中下]叶",
    "heart": r"心脏|心影|[左右]心[房室]|心[房室]|心肌",
    "aorta": r"主动脉",
    "trachea": r"(?<!支)气管",
    "esophagus": r"食[管道]",
    "liver": r"肝(?!动脉|静脉|门静脉|曲|胆管)[脏区部内]?",
    "gallbladder": r"胆囊|胆(?=[、胰脾])",
    "spleen": r"脾(?!动脉|静脉|曲)脏?",
    "stomach": r"胃(?!镜|肠|动脉)[部腔壁]?",
    "pancreas": r"胰(?!岛)[腺头体尾]?",
    "small bowel": r"小肠|十二指肠|空肠|回肠",
    "colon": r"结肠(?!镜)|结直肠|大肠|盲肠|乙状结肠|[肝脾]曲",
    "spine": r"脊柱|脊椎|椎体|[颈胸腰]椎(?:椎体|体)?",
    "adrenal gland": r"肾上腺",
    "kidney": r"肾(?!上腺|盂|盏|动脉|静脉|门)[脏区]?",
    "scapula": r"肩胛骨?",
    "frontal lobe": r"额叶|前额叶|额部|额[中上下]回|额极",
    "parietal lobe": r"顶叶|顶部皮[层质]",
    "temporal lobe": r"颞叶|颞部|颞极|海马|杏仁核",
    "occipital lobe": r"枕叶|枕部|枕极",
    "insula": r"岛叶|脑岛|岛盖",
    "cingulate cortex": r"扣带",
    "basal ganglia": r"基底[节核]区?|尾状核|壳核|豆状核|苍白球|纹状体",
    "thalamus": r"(?<!下)丘脑",
    "cerebellar vermis": r"(?:小脑)?蚓部",
    "cerebellum": r"小脑(?:半球)?(?!蚓|扁桃体|幕)",
    "lung nodule": r"(?:肺部?内?)?(?<!甲状腺)结节(?!性硬化)",
    "bladder": r"膀胱",
    "prostate": r"前列腺",
    "uterus": r"子宫|宫[颈体腔]",
    "thyroid": r"甲状腺",
    "mediastinum": r"纵隔",
    "brainstem": r"脑干|脑桥|桥脑|中脑|延髓",
    "corpus callosum": r"胼胝体",
    "spinal cord": r"脊髓",
    "optic disc": r"视盘|视神经乳头|视乳头",
    "macula": r"黄斑",
    "cerebral hemisphere": r"(?:大脑)?(?<!小脑)半球",
    "lateral ventricle": r"侧脑室",
    "rib": r"肋骨",
    "clavicle": r"锁骨",
    "femur": r"股骨",
}
"""Parts are gathered into structures as in English: 尾状核 (caudate) into 基底节, 海马 (hippocampus) into 颞叶."""

ROI = rf"感?兴趣区|{_ROI}|最大的(?!可能)|(?:标记|标注|标出|框出|圈出|方框|绿框)的?(?:区域|部位|部分)?"
LESION = rf"病灶|病变|肿[瘤块物]|异常(?:密度|信号|区域)|[高低](?:密度|信号)[影灶区]|阴影|{'|'.join(FINDINGS.values())}"
