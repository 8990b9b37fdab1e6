"""The graph of a run as data: what each stage is called, where its output lies, what it needs, how it is started."""

from __future__ import annotations

from dataclasses import dataclass

from medvl_jobs.contracts import layout
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys, variants
from medvl_jobs.settings.run import RunSettings


@dataclass(frozen=True)
class Stage:
    """One box of the graph."""

    name: str
    words: tuple[str, ...]
    """The command line after ``medvl``, without ``--config``: the same in a container and on a laptop."""
    prefix: str
    """Where the output lies; the stage is finished when its manifest is there."""
    needs: tuple[str, ...] = ()

    @property
    def manifest(self) -> str:
        """Which manifest of a plan its Job is made of: the command's, but for the evaluation that has no model."""
        return Variant.TEMPLATE.value if self.words[-1] == Variant.TEMPLATE else self.words[0]


def stages(settings: RunSettings, keys: StageKeys) -> tuple[Stage, ...]:
    """All stages of a run, every one after those that it needs; the last is the goal."""
    graph = [Stage("prep", ("prep",), layout.prepared(keys.prep))]
    if settings.eval.adapter is None:
        graph.append(Stage("train", ("train",), layout.adapter(keys.adapter), ("prep",)))
    trained = tuple(stage.name for stage in graph)
    for variant in variants(settings):
        graph.append(
            Stage(
                f"eval-{variant}",
                ("eval", "--variant", variant.value),
                layout.predictions(keys.eval[variant]),
                trained if variant.has_adapter else ("prep",),
            )
        )
    evaluated = tuple(stage.name for stage in graph if stage.words[0] == "eval")
    graph.append(Stage("report", ("report",), layout.run(settings.name, keys.report), (*trained, *evaluated)))
    return tuple(graph)
