"""Which engine answers, by the settings. Each is imported when it is chosen."""

from __future__ import annotations

from pathlib import Path

from medvl_jobs.eval.engines.base import Engine
from medvl_jobs.settings.run import RunSettings


def open_engine(settings: RunSettings, adapter: Path | None, question: str) -> Engine:
    """The engine of ``eval.engine``, ready to be asked ``question`` about images.

    ``adapter``: the folder that PEFT saved, or none for the base model. Raises what loading raises.
    """
    if settings.eval.engine == "openai":
        from medvl_jobs.eval.engines.openai import OpenAIEngine  # noqa: PLC0415

        return OpenAIEngine(settings, adapter, question)
    from medvl_jobs.eval.engines.in_process import InProcessEngine  # noqa: PLC0415

    return InProcessEngine(settings, adapter, question)
