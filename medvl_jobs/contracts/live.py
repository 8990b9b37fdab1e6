"""What a stage says of itself while it works: no result, and no part of any manifest or key."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

State = Literal["working", "done", "failed", "stopped"]
"""``stopped``: by a signal, with what was finished kept."""


class Progress(Protocol):
    """How a stage tells how far it is. Cheap, and never raises: told after every step or batch."""

    def __call__(self, done: int, total: int, *, loss: float | None = None) -> None:
        """``done`` of ``total``, counting what earlier attempts did; tell the start too, since the rate counts from it.

        ``loss`` in nats per token.
        """
        ...


def untold(done: int, total: int, *, loss: float | None = None) -> None:
    """The `Progress` of a stage that nobody listens to."""


class Status(BaseModel):
    """``live/<stage>/status.json``."""

    # A reader may be older than the writer: what it does not know, it leaves out.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    stage: str
    state: State
    done: int | None = None
    """Steps or examples so far, of all attempts; none before the first, while data and model are loaded."""
    total: int | None = None
    unit: str
    """What is counted: ``steps``, ``examples``."""
    loss: float | None = None
    """Of the newest log line, in nats per token; training alone has one."""
    rate: float | None = None
    """``unit`` a second, since this attempt's first."""
    eta_seconds: float | None = None
    """Still to go at that rate."""
    eta: AwareDatetime | None = None
    """When it is done at that rate."""
    host: str
    """Name of the machine; on Kubernetes that of the pod."""
    processes: int
    """Processes, or pods, that share the work; the first of them speaks for all."""
    attempt: int = 1
    """How often this stage of this run was started."""
    started_at: AwareDatetime
    """This attempt's start."""
    updated_at: AwareDatetime
    """The last sign of life."""
    every_seconds: float
    """A sign of life comes this often."""
    error: dict[str, str | int] | None = None
    """What has ended this attempt, or while it works the one before; as on the termination log."""

    def to_json(self) -> str:
        """Indented, for people."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Status | None:
        """None for what is no status: another version's, or damaged. Nothing but a display depends on it."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None
