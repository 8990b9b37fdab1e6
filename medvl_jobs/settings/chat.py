"""Settings of the chat page."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from medvl_jobs.settings.section import Section, operational


class ChatSettings(Section):
    """How the page is served, and what it lets people ask. Nothing here changes a result."""

    host: str = operational("127.0.0.1")
    """Address to listen on; ``0.0.0.0`` is for containers, and lets in whoever reaches the machine."""
    port: Annotated[int, Field(ge=0, le=65_535)] = operational(7860)
    """0 takes any free one; the log names it."""
    password: SecretStr | None = operational(None, exclude=True)
    """What the page asks for. Give it in ``MEDVL_CHAT__PASSWORD``: nothing that is stored or printed holds it."""
    queue: Annotated[int, Field(ge=0)] = operational(8)
    """Questions that may wait for the model; who comes later is told to come back."""
    examples: Annotated[int, Field(ge=0, le=64)] = operational(8)
    """Validation images to try, with their captions."""
    max_upload_bytes: Annotated[int, Field(ge=1024)] = operational(20_000_000)
    """Larger files are refused. Pixels are limited by ``prep.image``, as in training."""
    max_question_chars: Annotated[int, Field(ge=1)] = operational(2_000)
    max_new_tokens: Annotated[int, Field(ge=1)] = operational(1_024)
    """The longest answer that may be asked for; ``eval.max_new_tokens`` is what the page starts with."""

    @field_validator("password")
    @classmethod
    def _is_one(cls, password: SecretStr | None) -> SecretStr | None:
        """A file has a line end, which is not meant: `guard` leaves it out, and nothing else may be left."""
        if password is not None and not password.get_secret_value().strip():
            raise ValueError("it is empty: leave it out to have none")
        return password
