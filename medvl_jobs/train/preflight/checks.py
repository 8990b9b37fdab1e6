"""The checks, in the order in which a training learns what they need.

Each method of `Preflight` raises at once when something is refused, after the table of all that was found until then
has been logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from medvl_jobs.contracts import layout
from medvl_jobs.settings.environment import read_topology
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import installed
from medvl_jobs.train.batches import Schedule
from medvl_jobs.train.data import TrainingExamples, worker_count
from medvl_jobs.train.planner.memory import memory
from medvl_jobs.train.planner.setup import Zero
from medvl_jobs.train.preflight import examples as of_examples
from medvl_jobs.train.preflight import gpus, machine
from medvl_jobs.train.preflight import model as of_model
from medvl_jobs.train.preflight.findings import Finding, merged, require, table
from medvl_jobs.train.preflight.libraries import PACKAGES, library_findings
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.zero import training_setup

log = logging.getLogger(__name__)


class Preflight:
    """What has been found until now, of all processes once they have joined."""

    def __init__(self, settings: RunSettings, storage: Storage) -> None:
        """Nothing is checked yet."""
        self.settings, self.storage = settings, storage
        self.topology = read_topology()
        self.ranks = Ranks()
        self.findings: list[Finding] = []
        self.scratch, self.trained = Path(), 0  # the folder and the trained parameters, once `alone` is told

    def alone(self, prepared_key: str, scratch: Path) -> None:
        """Before the processes join, and before anything large is read: libraries, GPUs, the adapter, disk, store."""
        self._add(library_findings(installed(PACKAGES), self.settings))
        self._add(gpus.gpu_findings(gpus.read_machine(), self.topology.processes, self.settings))
        lora, self.trained = of_model.planned_lora_finding(self.settings.model, self.settings.train.lora)
        self._add([lora, machine.store_finding(self.storage)])
        self.scratch = scratch
        self._add(self._disk(self._split_bytes(prepared_key), 0))

    def joined(self, ranks: Ranks) -> None:
        """Once the processes have joined: whether they reach each other."""
        found = machine.all_reduce_finding(ranks)
        self._add([found])  # before `ranks` is set: processes that do not reach each other cannot agree on it
        self.ranks = ranks

    def data(self, examples: TrainingExamples, schedule: Schedule, zero: Zero) -> None:
        """Once the examples are known, and before the model is loaded: the data, and the memory they take.

        ``zero``: the stage in force, as `resolve_zero` gives it.
        """
        self._add_of_all(lambda: of_examples.data_findings(examples, schedule, self.ranks.rank))
        # The split is there by now, and DeepSpeed's checkpoints are the larger ones.
        self._add_of_all(lambda: [self._memory(examples, zero), self._shared_memory(schedule), *self._disk(0, zero)])

    def model(self, model: nn.Module) -> None:
        """Once the model is there, with its adapter and before the Trainer wraps it: what of it is in force."""
        asked = self.settings.model
        self._add_of_all(
            lambda: [
                of_model.attention_finding(model, asked.attention),
                of_model.experts_finding(model, asked.experts),
                of_model.lora_finding(model),
            ]
        )

    def table(self) -> str:
        """All that was found; of the adapter what the loaded model says, once it does."""
        last = {each.name: each for each in self.findings}
        return table([each for each in self.findings if last[each.name] is each or each.verdict != "ok"])

    def _add_of_all(self, find: Callable[[], list[Finding]]) -> None:
        self._add(merged(self.ranks.together(find)))

    def _add(self, found: Sequence[Finding]) -> None:
        self.findings += found
        if self.topology.local_rank in {None, 0} and any(each.verdict == "refused" for each in found):
            log.error("refused before the first step:\n%s", self.table())
        require(found)

    def _split_bytes(self, prepared_key: str) -> int:
        """Of all examples: those of the train split are not much less."""
        listed = self.storage.list_stats(layout.parts(prepared_key))
        return sum(stat.bytes for key, stat in listed if key.endswith(layout.EXAMPLES))

    def _memory(self, examples: TrainingExamples, zero: Zero) -> Finding:
        needed = memory(training_setup(self.settings, examples.lengths, self.ranks.world), zero).total
        if not torch.cuda.is_available():
            return gpus.memory_finding(needed, None, None)
        device = torch.cuda.current_device()
        return gpus.memory_finding(needed, gpus.read_machine().gpus[device], torch.cuda.mem_get_info(device)[0])

    def _shared_memory(self, schedule: Schedule) -> Finding:
        processes = self.topology.processes
        workers = processes * worker_count(self.settings.train, processes)
        needed = of_examples.shared_memory_bytes(schedule, self._element_bytes, workers)
        return machine.shared_memory_finding(needed, machine.free_shared_memory())

    def _disk(self, split_bytes: int, zero: Zero) -> list[Finding]:
        """By one process for all of this machine."""
        if self.topology.local_rank not in {None, 0}:
            return []
        checkpoint = machine.checkpoint_bytes(self.trained, zero, self._element_bytes)
        needed = machine.disk_bytes(split_bytes, checkpoint, self.topology.processes)
        return [machine.disk_finding(self.scratch, needed)]

    @property
    def _element_bytes(self) -> int:
        return torch.finfo(getattr(torch, self.settings.model.dtype)).bits // 8
