"""The base of every settings class, and the line between what changes a result and what only changes how it is made."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy's and torch's generators both take."""


class Section(BaseModel):
    """A group of settings: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def semantic(self) -> dict[str, Any]:
        """The settings that change the result, at any depth: none that is `operational`, or `added` and not used."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            value = getattr(self, name)
            if marks.get("operational") or (marks.get("added") and value == field.default):
                continue
            values[name] = value.semantic() if isinstance(value, Section) else self.model_dump(mode="json")[name]
        return values


def operational(default: Any, **constraints: Any) -> Any:
    """A field that does not change a stage's output (where it lies, how fast it is made), so not its key either."""
    return Field(default, json_schema_extra={"operational": True}, **constraints)


def added(default: Any, **constraints: Any) -> Any:
    """A field that came when there were keys already: with its default, which must never change, it is no part of them.

    So results from before it are still found, and are what they were.
    """
    return Field(default, json_schema_extra={"added": True}, **constraints)
