"""How Chinese says sides, negations, hedges, positions and percentages.

A comma ends a clause here: what stands in a row is joined by ``、``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medvl_jobs.eval.lexicon import chinese
from medvl_jobs.eval.lexicon.vocabulary import ANYWHERE, Lexicon, RegionWords, Scope, Sides, Table, Words
from medvl_jobs.eval.traced import Piece

_IMAGE = r"(?:图像|图片|画面|影像|视野|扫描|切片|图中|图)"

# --- sides -------------------------------------------------------------------------------------------------------

_SIDE = r"双侧|两侧|左右|左侧|右侧|左边|右边|左|右|双|两"
SIDES = Sides(
    # Trap: "图像左侧" is a place in the image.
    before=re.compile(
        rf"(?<!图像)(?<!图片)(?<!画面)(?<!影像)(?<!像的)(?<!片的)(?<!画面的)({_SIDE})"
        r"(?:的|大?脑半球的?|大脑|[上中下前后内外]|第[\d一二三四五六七八九十]+)*$"
    ),
    after=re.compile(r"\((左|右|左侧|右侧|双侧)\)|的?(左侧|右侧|双侧)(?!可见|见|有|的|为|是|及|和)"),
    meaning={
        **dict.fromkeys(("左", "左侧", "左边"), ("left",)),
        **dict.fromkeys(("右", "右侧", "右边"), ("right",)),
        **dict.fromkeys(("双", "两", "双侧", "两侧", "左右"), ("right", "left")),
    },
    plural_is_marked=False,
)

# --- negation and hedges -----------------------------------------------------------------------------------------

_CLAUSE = r"[,;:。)]"
_TURN = r"但|仅|只(?!有)|然而|不过"
_VERB = r"可见|显示|提示|位于|表现|累及"
_DENIED = rf"(?=$|{_CLAUSE}|{_TURN})"

DENIAL = Scope(
    after=re.compile(
        r"未(?:见|发现|观察|看|检出|检测|识别|探及|查见|出现|显示|提示|发生|伴|累及|及(?!时))"
        r"|没[有见看发检]|(?<!有)无(?![法论关])|不存在|不[见伴含是](?!得)|并非|而非"
        r"|看不[到见清]|无法(?:看到|看见|识别|显示|观察)|不太?大?可能"
        r"|(?<![能法以未不可待难便期步全])(?<!活检)(?<!检查)(?<!复查)排除(?!在)|可以(?:完全)?排除"
        r"|(?<![能不待])除外"
        r"|否认|缺乏|不[像似]|不符合|不支持"
    ),
    ends=re.compile(rf"{_CLAUSE}|{_TURN}|{_VERB}|而是"),
    before=re.compile(
        rf"(?:未(?:见|显示|显影|被?发现|见显示)|不可见|不存在|缺如|阴性|看不[到见清]|可能性(?:较|很)?[小低]){_DENIED}"
        rf"|(?:已被?|被|可以?|得以)(?:排除|切除){_DENIED}"
    ),
    starts=re.compile(rf"{_CLAUSE}|{_TURN}"),
)

HEDGE = Scope(
    after=re.compile(
        r"(?<!不)可能(?!性)|或许|也许|大概|疑似|疑为|怀疑|可疑|考虑|提示|似乎|似为|貌似|倾向|推测|推断|拟诊"
        r"|(?:不能|无法|难以|不可|不|未)(?:完全)?(?:排除|除外)|(?:活检|检查|复查)(?:排除|除外)"
        r"|(?<!可)以(?:便|期)?(?:进一步)?(?:排除|除外)|(?:不能|无法|难以)(?:确定|判断|明确|确诊)"
        r"|可能性"
    ),
    ends=re.compile(rf"[,;。]|{_TURN}"),
    before=re.compile(
        rf"(?:待(?:排除?|查|除外)|(?:不能|无法|难以|不|未)(?:完全)?(?:被)?(?:排除|除外)"
        rf"|(?:的)?可能性?(?:较|很)?[大小高低]?|\?){_DENIED}"
    ),
    starts=re.compile(rf"[,;。]|{_TURN}"),
)

# --- region of interest ------------------------------------------------------------------------------------------

FRACTIONS = {"一半": 50.0, "二分之一": 50.0, "三分之一": 33.3, "四分之一": 25.0, "三分之二": 66.7, "四分之三": 75.0}
_DIGITS = {**{each: str(i) for i, each in enumerate("零一二三四五六七八九")}, "两": "2", "点": "."}


def number(words: str) -> float:
    """``12.5``, ``十二``, ``零点五`` and ``三分之一`` in percent."""
    if words in FRACTIONS:
        return FRACTIONS[words]
    if words[0].isascii():
        return float(words)
    whole, _, rest = words.partition("点")
    tens, ten, ones = whole.rpartition("十")
    value = 10.0 * float(_DIGITS.get(tens, 1)) * bool(ten) + float(_DIGITS.get(ones, 0))
    decimals = "".join(_DIGITS[each] for each in rest if each in _DIGITS and each != "点")
    return value + (float(f"0.{decimals}") if decimals else 0.0)


_WORDS = "[零一二三四五六七八九十]{1,3}(?:点[零一二三四五六七八九]{1,2})?"
_UNDER = r"(?P<under>不到|不足|小于|少于|低于|<)?"
_PERCENT = (
    rf"{_UNDER}(?:(?P<low>\d+(?:\.\d+)?)%?(?:[-~至到](?P<high>\d+(?:\.\d+)?))?%)",
    rf"{_UNDER}百分之(?P<low>\d+(?:\.\d+)?|{_WORDS})(?:[-~至到](?:百分之)?(?P<high>\d+(?:\.\d+)?|{_WORDS}))?",
)
_FILL = "[^,;%百]{0,12}?"
_OF_IMAGE = rf"(?:占据?了?|覆盖了?|面积){_FILL}"

ROWS = {
    **dict.fromkeys(("上", "顶"), "upper"),
    **dict.fromkeys(("下", "底"), "lower"),
    "中": "middle",
}
COLUMNS = {"左": "left", "右": "right", "中": "center"}
_ENDING = r"(?:[方部角侧边区缘]|区域|象限|位置)"
_OF = rf"{_IMAGE}[的中内]*"
REGION = RegionWords(
    region=re.compile(chinese.ROI),
    lesion=re.compile(chinese.LESION),
    goes_on=re.compile(
        r"(?:它|其|该|此|这个?|这一)(?:感兴趣)?(?:区域?|病灶|病变|部位|结构|位置)?|位置|位于|面积|大小|约?占|病[灶变]"
    ),
    neighbour=re.compile(r"(?:邻近|靠近|毗邻|临近|紧邻|相邻|接近|旁边?|与|[推挤]压|压迫)(?:的)?$"),
    positions=(
        re.compile(rf"(?P<column>[左右])(?:侧)?(?:的)?(?:(?P<row>[上中下]){_ENDING}|中[央间心])"),
        re.compile(rf"(?P<row>[上中下])(?:[方部央间心])?(?:的)?(?P<column>[左右]){_ENDING}"),
        re.compile(rf"{_OF}(?P<column>[左右])(?P<row>[上下])"),
        re.compile(r"(?P<row>[上下])[方部]?偏(?P<column>[左右])"),
        re.compile(r"(?P<column>[左右])[侧方]?偏(?P<row>[上下])"),
        re.compile(r"(?P<row>[上下])[方部]?的?(?:中[央间部心]|正中)"),
        re.compile(r"(?:中|正)(?P<row>[上下])[方部]"),
        re.compile(r"中[央间心部]?偏(?P<row>[上下])"),
        re.compile(r"中[央间心部]?偏(?P<column>[左右])"),
        re.compile(rf"{_OF}(?P<column>[左右])(?:半?[部侧边方]|半)"),
        re.compile(rf"{_OF}(?P<row>[上下顶底])(?:半?[部侧边方]|半)"),
        re.compile(rf"{_OF}(?:的?正?中[央间心部])|(?:位于|在)正?中[央间心]"),
    ),
    rows=ROWS,
    columns=COLUMNS,
    areas=(
        *(re.compile(_OF_IMAGE + each) for each in _PERCENT),
        *(re.compile(each + r"的?(?:图像|画面|图片|面积)") for each in _PERCENT),
        *(re.compile(each) for each in _PERCENT),
        re.compile(rf"(?:占据?了?|覆盖了?){_FILL}{_UNDER}(?P<low>{'|'.join(FRACTIONS)})"),
    ),
    number=number,
    place_comes_first=True,
)

# --- lists of sides and lobes ------------------------------------------------------------------------------------

_BLANKS = re.compile(r"\s+")
_PAIR = re.compile(
    r"左(?:侧)?[、和及与/](?:右侧|右)(?:两|双)?侧?|右(?:侧)?[、和及与/](?:左侧|左)(?:两|双)?侧?|左右(?:两|双)侧?"
)
_LOBE_LIST = re.compile(
    r"((?:双侧|两侧|左侧|右侧|双|左|右)?)"
    r"([额颞顶枕]叶?(?:[、和及与-]?[额颞顶枕]叶?){0,3}(?<!叶)(?=叶)|[额颞顶枕](?:[、和及与-]?[额颞顶枕]){1,3}(?=[部区]))"
)

_HEART_AND_LUNGS = re.compile("心肺")


def _spell_out(match: re.Match[str]) -> Iterator[Piece]:
    """``左侧额颞叶`` and ``左侧额颞部`` -> ``左侧额叶、左侧颞叶``."""
    names = [at for at in range(match.start(2), match.end(2)) if match.string[at] in "额颞顶枕"]
    for at in names:
        end = at + 2 if match.string.startswith("叶", at + 1) else at + 1
        yield f"{match[1]}{match.string[at]}叶", match.start() if at == names[0] else at, end


def _both_words(match: re.Match[str]) -> Iterator[Piece]:
    """``心肺`` -> ``心脏肺``."""
    yield "心脏", match.start(), match.start() + 1
    yield "肺", match.start() + 1, match.end()


CHINESE = Lexicon(
    words=Words(
        modalities=Table(chinese.MODALITIES, ANYWHERE),
        planes=Table(chinese.PLANES, ANYWHERE),
        body_parts=Table(chinese.BODY_PARTS, ANYWHERE),
        findings=Table(chinese.FINDINGS, ANYWHERE),
        structures=Table(chinese.STRUCTURES, ANYWHERE),
        normal=re.compile(chinese.NORMAL),
    ),
    sides=SIDES,
    denial=DENIAL,
    hedge=HEDGE,
    region=REGION,
    rewrites=((_BLANKS, ""), (_PAIR, "双侧"), (_LOBE_LIST, _spell_out), (_HEART_AND_LUNGS, _both_words)),
)
