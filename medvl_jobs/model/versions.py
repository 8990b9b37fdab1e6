"""The libraries that an adapter was made with, and whether these are of the same generation. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.storage.publish import installed

OF_AN_ADAPTER = ("transformers", "peft")
"""What names its weights: the modules' names are transformers', the prefixes PEFT's."""


def major(version: str) -> str:
    """``5`` of ``5.23.0``."""
    return version.split(".", maxsplit=1)[0]


def require_same_major(made_with: Mapping[str, str], where: str) -> None:
    """Raises `SchemaMismatchError` for an adapter of another transformers major.

    Version 5 names layers and lays out experts otherwise than version 4 (transformers#42491): where a name does not
    match, PEFT leaves that part of the adapter out and says so in a warning at most. An adapter that does not say what
    it was made with is let through.
    """
    before, now = made_with.get("transformers"), installed(OF_AN_ADAPTER).get("transformers")
    if before is not None and now is not None and major(before) != major(now):
        raise SchemaMismatchError(
            f"the adapter was made with transformers {before}, this is transformers {now}",
            where=where,
            remedy=f"install transformers {major(before)}, or train the adapter again",
        )
