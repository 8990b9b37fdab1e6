"""What a run has to do, worked out without doing any of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from medvl_jobs.pipeline.stages import Stage

Action = Literal["run", "reuse", "unneeded"]


@dataclass(frozen=True)
class Step:
    """A stage and what is to be done about it."""

    stage: Stage
    action: Action
    """``run`` it; ``reuse`` its finished output; or it is ``unneeded``, because all that would read it is finished."""


def plan(graph: Sequence[Stage], finished: Callable[[Stage], bool]) -> tuple[Step, ...]:
    """Decide from the goal backwards: a stage runs when it is not finished and a stage that runs needs it."""
    wanted = {graph[-1].name}
    steps: list[Step] = []
    for stage in reversed(graph):
        if finished(stage):
            action: Action = "reuse"
        elif stage.name in wanted:
            action = "run"
            wanted.update(stage.needs)
        else:
            action = "unneeded"
        steps.append(Step(stage, action))
    return tuple(reversed(steps))


def show(steps: Sequence[Step]) -> str:
    """The plan as a table for a person."""
    width = max(len(step.stage.name) for step in steps)
    return "\n".join(f"{step.action:<8}  {step.stage.name:<{width}}  {step.stage.prefix}" for step in steps)


def as_json(steps: Sequence[Step]) -> list[dict[str, object]]:
    """``plan.json``: the graph of the run, without the actions, which differ from one start to the next."""
    return [
        {
            "stage": s.stage.name,
            "command": ["medvl", *s.stage.words],
            "prefix": s.stage.prefix,
            "needs": list(s.stage.needs),
        }
        for s in steps
    ]
