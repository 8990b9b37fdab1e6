"""The JSON schema of ``report.json``, made from `shape`; published as ``docs/report.schema.json``."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from medvl_jobs.report.shape import SCHEMA_VERSION, Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. Every part that `shape` names, with its docstrings as descriptions; nothing else is allowed."""
    made = TypeAdapter(Report).json_schema()
    return {"$schema": DIALECT, **made, "title": f"medvl report.json, version {SCHEMA_VERSION}"}
