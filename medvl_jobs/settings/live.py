"""Settings of what stages say while they work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class LiveSettings(Section):
    """Status and log in the store, refreshed in the background. Nothing here changes a result."""

    every_seconds: Annotated[float, Field(gt=0)] = operational(15.0)
    """How often both are refreshed, and `medvl status --watch` and `medvl logs --follow` look again."""
