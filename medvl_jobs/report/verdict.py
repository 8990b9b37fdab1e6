"""What the numbers say, in one sentence. It is generated, so it cannot flatter."""

from __future__ import annotations

from medvl_jobs.page.words import number, quantity
from medvl_jobs.report.frame import Frame
from medvl_jobs.report.metrics import describe
from medvl_jobs.report.shape import Difference, Headline, Learned, Looks, Slice, Verdict
from medvl_jobs.report.words import interval, shown
from medvl_jobs.settings.eval import Variant


def judge(whole: Slice, frame: Frame) -> Verdict:
    """The verdict on a comparison. A direction is claimed only where the 95 % interval leaves out zero."""
    headline = whole["headline"]
    learned, looks = _learned(headline["gain"]), _looks(headline["drop"])
    whole_of = "" if headline["examples"] == whole["examples"] else f"{headline['examples']:,} of "
    sentence = (
        f"On {whole_of}{quantity(whole['examples'], 'validation image')} in {quantity(headline['groups'], 'group')}, "
        f"{_learned_clause(learned, headline, frame)}"
    )
    if frame.kind == "run":
        joint = "and" if (learned == "better") == (looks == "yes") else "but"
        sentence += f", {joint} {_looks_clause(looks, headline['drop'])}"
    return {"sentence": f"{sentence}.", "learned": learned, "looks": looks}


def _learned(gain: Difference) -> Learned:
    if gain["low"] is None or gain["high"] is None:
        return "undetermined"
    if gain["low"] > 0:
        return "better"
    return "worse" if gain["high"] < 0 else "no difference shown"


def _looks(drop: Difference | None) -> Looks:
    if drop is None:
        return "not tested"
    if drop["low"] is None:
        return "undetermined"
    return "yes" if drop["low"] > 0 else "not shown"


def _learned_clause(learned: Learned, headline: Headline, frame: Frame) -> str:
    gain, variants = headline["gain"], headline["variants"]
    tuned, base = (number(variants[variant]["value"]) for variant in (Variant.TUNED, Variant.BASE))
    scores, where = f"{tuned} against {base}", f"in {describe(headline['metric']).inside}"
    points = shown(abs(gain["value"]))
    within = f"95 % interval {interval(_negated(gain) if learned == 'worse' else gain)}"
    first, second = frame.names[Variant.TUNED].subject, frame.names[Variant.BASE].subject
    match learned:
        case "better":
            return f"{first} beats {second} {where} ({scores}, {points} points more, {within})"
        case "worse":
            return f"{first} is worse than {second} {where} ({scores}, {points} points less, {within})"
        case "no difference shown":
            between = "tuned and base" if frame.kind == "run" else f"{first} and {second}"
            return f"no difference between {between} is shown {where} ({scores}, {within} of the difference)"
        case "undetermined":
            return f"{first} scores {scores} {where}, with an uncertainty that so few groups cannot tell"


def _looks_clause(looks: Looks, drop: Difference | None) -> str:
    if drop is None:
        return "whether it looks at the image was not tested"
    told = f"shown another example's image, it {_change(-drop['value'], 'only ' if looks == 'not shown' else '')}"
    match looks:
        case "yes":
            return f"it looks at the image: {told} ({interval(drop)})"
        case "not shown":
            return f"it is not shown to look at the image: {told} (95 % interval of the loss {interval(drop)})"
        case _:
            return told


def _change(points: float, only: str) -> str:
    size = shown(abs(points))
    if size == number(0):
        return "scores the same"
    return f"gains {size} points" if points > 0 else f"loses {only}{size} points"


def _negated(gain: Difference) -> Difference:
    """The loss: a reader of "less" wants both ends positive, the smaller first."""
    low, high = gain["low"], gain["high"]
    return {**gain, "low": None if high is None else -high, "high": None if low is None else -low}
