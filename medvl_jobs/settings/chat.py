"""Settings of the chat page."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class ChatSettings(Section):
    """How the page is served. Nothing here changes a result."""

    port: Annotated[int, Field(ge=0, le=65_535)] = operational(7860)
