"""Which keys a store accepts: one rule for every backend, so that what works on a laptop works on S3."""

from __future__ import annotations

import re

from medvl_jobs.errors import SettingsError

TEMPORARY = ".medvl-tmp-"
"""How the names of half-written local files begin; no key may use it, and no listing shows it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked_key(key: str) -> str:
    """``key`` itself. Raises `SettingsError` unless it is a relative path without ``.``, ``..`` or empty parts."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise _refusal(key, "must be a relative path without empty parts, '.' or '..'")
    return _checked_characters(key)


def checked_prefix(prefix: str) -> str:
    """``prefix`` itself: the beginning of a key, cut anywhere, also empty. Raises `SettingsError`."""
    if any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise _refusal(prefix, "must be the beginning of a relative path without empty parts, '.' or '..'")
    return _checked_characters(prefix)


def _checked_characters(key: str) -> str:
    if _CONTROL.search(key) or any(part.startswith(TEMPORARY) for part in key.split("/")):
        raise _refusal(key, f"must hold no control characters and no part that begins with '{TEMPORARY}'")
    return key


def _refusal(key: str, rule: str) -> SettingsError:
    remedy = "change the run name or path that it was made from"
    return SettingsError(f"the key {key!r} is refused: it {rule}", remedy=remedy)
