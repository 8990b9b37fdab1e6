"""Settings of the server that answers in place of this process: any that speaks OpenAI's protocol, vLLM first."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class ServerSettings(Section):
    """Where it is, or how it is started."""

    url: str | None = operational(None)
    """Base address, such as ``http://vllm:8000/v1``; none lets the job start vLLM itself."""
    concurrency: Annotated[int, Field(ge=1)] = operational(32)
    """Requests under way at a time."""
