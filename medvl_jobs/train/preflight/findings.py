"""What a check has found, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from medvl_jobs.errors import MedvlError, SettingsError

Verdict = Literal["ok", "warning", "refused"]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    name: str
    value: str
    verdict: Verdict = "ok"
    where: str = ""
    remedy: str = ""
    error: type[MedvlError] = SettingsError
    """What is raised for it when it is refused."""

    @classmethod
    def of(cls, name: str, error: MedvlError) -> Finding:
        """A check that raised."""
        return cls(name, error.what, "refused", error.where, error.remedy, type(error))


def require(findings: Iterable[Finding]) -> None:
    """Raise the error of the first finding that is refused; the others are in the table."""
    for each in findings:
        if each.verdict == "refused":
            raise each.error(f"{each.name}: {each.value}", where=each.where, remedy=each.remedy)


def merged(of_processes: Sequence[Sequence[Finding]]) -> list[Finding]:
    """The findings of all processes: the first one's, and what is not as it should be with the others.

    So all processes refuse the same, and none is left waiting for another that has ended.
    """
    first, *others = of_processes
    return [
        *first,
        *(
            Finding(f"{each.name} (process {rank})", each.value, each.verdict, each.where, each.remedy, each.error)
            for rank, findings in enumerate(others, start=1)
            for each in findings
            if each.verdict != "ok" and each not in first
        ),
    ]


def table(findings: Sequence[Finding]) -> str:
    """One line for each, more for a value of several lines, and what to do below what is not as it should be."""
    width = max((len(each.name) for each in findings), default=0)
    lines = []
    for each in findings:
        indent = " " * (width + 12)
        first, *rest = each.value.splitlines() or [""]
        lines.append(f"{each.verdict:<9} {each.name:<{width}}  {first}".rstrip())
        lines += [f"{indent}{line}".rstrip() for line in rest]
        if each.verdict != "ok":
            lines += [
                f"{indent}{word}: {said}" for word, said in (("where", each.where), ("remedy", each.remedy)) if said
            ]
    return "\n".join(lines)
