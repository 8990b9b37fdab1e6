"""From a raw row to an example or a refusal: pure, one row at a time, and nobody's opinion but the settings'.

A row that fails is never dropped in silence: it becomes a `Refusal` with a reason to count by, goes into the quarantine
with its original content, and too many of them fail the stage.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medvl_jobs.contracts.facts import POSITIONS, Facts
from medvl_jobs.prep.captions import command_in, is_unicode
from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.rows import Example, RawRow, Reason, Refusal, RefusedError, short_digest
from medvl_jobs.prep.split import Grouping
from medvl_jobs.settings.prep import PrepSettings

MAX_ID_BYTES = 200
"""Of an id in UTF-8: ids become file names and keys."""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NEWLINES = re.compile(r"\r\n?|[\v\f\x85\u2028\u2029]")
_FACTS = TypeAdapter(Facts)
_SHOWN_CHARS = 80


def judge(rows: Iterable[RawRow], prep: PrepSettings, grouping: Grouping) -> Iterator[tuple[RawRow, Example | Refusal]]:
    """Each row of a part with what became of it. Of several examples with one id the first stays.

    A refused row does not use its id up: a sound row that follows may have it.
    """
    seen: set[int] = set()
    for row in rows:
        verdict = examine(row, prep, grouping)
        if isinstance(verdict, Example):
            digest = short_digest(verdict.example_id)
            if digest in seen:
                verdict = Refusal(Reason.DUPLICATE_ID, f"the id {_shown(verdict.example_id)} has come before")
            seen.add(digest)
        yield row, verdict


def examine(row: RawRow, prep: PrepSettings, grouping: Grouping) -> Example | Refusal:
    """Check one row by itself; duplicates are found by `judge`. The first failure found is the one that is told."""
    if row.problem:
        return row.problem
    try:
        example_id = checked_id(row.id)
        caption = checked_caption(row.caption, prep.max_caption_chars)
        facts = checked_facts(row.facts)
        group, group_source = grouping.of(_identifier(row.group, "group"), example_id)
        data = encoded_image(row.image)
        # Last, for it takes a thousand times as long as all of the above.
        image = checked_image(data, prep.image)
    except RefusedError as error:
        return error.refusal
    return Example(
        example_id=example_id, image=image, caption=caption, group=group, group_source=group_source, facts=facts
    )


def checked_id(value: object) -> str:
    """The id as text, unchanged; whole numbers are written out. Raises `RefusedError`."""
    text = _identifier(value, "id")
    if text is None:
        raise RefusedError(Reason.MISSING_ID, "the id is null or empty")
    problem = None
    if text.startswith("/") or re.match(r"[A-Za-z]:/", text):
        problem = "is an absolute path"
    elif ".." in text.split("/"):
        problem = "leads out of its folder with '..'"
    elif "\\" in text:
        problem = "holds a backslash"
    elif _CONTROL_CHARACTERS.search(text):
        problem = "holds control characters"
    elif (size := len(text.encode())) > MAX_ID_BYTES:
        problem = f"has {size} bytes, more than {MAX_ID_BYTES}"
    if problem:
        raise RefusedError(Reason.UNSAFE_ID, f"the id {_shown(text)} {problem}")
    return text


def checked_caption(value: object, max_chars: int) -> str:
    """The caption in Unicode NFC, stripped, with ``\\n`` for every kind of line end. Raises `RefusedError`."""
    if value is None:
        raise RefusedError(Reason.CAPTION_MISSING, "the caption is null")
    if not isinstance(value, str):
        raise _bad_type("caption", value)
    text = unicodedata.normalize("NFC", _NEWLINES.sub("\n", value)).strip()
    if not text:
        raise RefusedError(Reason.CAPTION_EMPTY, f"nothing is left of {len(value)} characters but white space")
    if len(text) > max_chars:
        detail = f"{len(text)} characters, more than prep.max_caption_chars={max_chars}"
        raise RefusedError(Reason.CAPTION_TOO_LONG, detail)
    if found := command_in(text):
        detail = f"the caption holds {_shown(found[0])} at character {found.start()}, which a model reads as a command"
        raise RefusedError(Reason.UNSAFE_CAPTION, detail)
    return text


def checked_facts(value: object) -> str | None:
    """Canonical JSON of a struct or JSON text; none when nothing is stated. Raises `RefusedError`."""
    if value is None or value == "":
        return None
    try:
        facts = _facts(json.loads(value) if isinstance(value, str) else value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        raise RefusedError(Reason.BAD_FACTS, detail) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # ValueError: not JSON
        raise RefusedError(Reason.BAD_FACTS, f"{error}: {_shown(value)}") from error
    text = facts.to_json()
    if not is_unicode(text):
        raise RefusedError(Reason.BAD_FACTS, f"half a surrogate pair, which is not Unicode: {_shown(value)}")
    return None if facts == Facts() else text


def encoded_image(value: object) -> bytes:
    """The image file's bytes, from raw bytes or Hugging Face's struct of bytes and path. Raises `RefusedError`."""
    if isinstance(value, dict):
        if value.get("bytes") is None and isinstance(value.get("path"), str):
            detail = f"only the path {_shown(value['path'])} is given; set prep.image_folder to the folder it is in"
            raise RefusedError(Reason.MISSING_IMAGE, detail)
        value = value.get("bytes")
    if value is None or value == b"":
        raise RefusedError(Reason.MISSING_IMAGE, "the image is null or empty")
    if not isinstance(value, bytes):
        raise _bad_type("image", value)
    return value


def _facts(value: Any) -> Facts:
    if isinstance(value, dict):
        region = value.get("region")
        if isinstance(region, dict) and all(part is None for part in region.values()):
            value = {**value, "region": None}  # some writers store a null struct as a struct of nulls
        if isinstance(value.get("structures"), str):
            raise TypeError("structures is one text, not a list")
    elif value is not None:
        raise TypeError("not an object")
    facts = _FACTS.validate_python(Facts.from_dict(value or {}).__dict__)
    if facts.region and facts.region.position not in POSITIONS:
        raise ValueError(f"region.position is none of {', '.join(POSITIONS)}")
    if facts.region and not 0 <= facts.region.area_percent <= 100:  # NaN fails as well
        raise ValueError("region.area_percent is not between 0 and 100")
    return facts


def _identifier(value: object, name: str) -> str | None:
    """Text or a whole number as text; none for null and for blank text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise _bad_type(name, value)
    return value


def _bad_type(name: str, value: object) -> RefusedError:
    return RefusedError(Reason.BAD_TYPE, f"the {name} is of type {type(value).__name__}: {_shown(value)}")


def _shown(value: object) -> str:
    """``repr``, which shows control characters as escapes, cut to a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
