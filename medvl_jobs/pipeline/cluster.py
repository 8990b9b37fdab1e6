"""Carry out a plan on Kubernetes: look, decide, act, wait for a change, look again.

It keeps no state of its own, so it may die at any moment: the next one finds the manifests in the store and the
children in the cluster, and goes on. One coordinator at a time works on a run; a Lease sees to that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from medvl_jobs.cluster.client import Cluster, ConflictError, EventType
from medvl_jobs.cluster.lease import Lease, RunLease
from medvl_jobs.cluster.status import Json, Phase, owners, phase
from medvl_jobs.cluster.watching import Bell
from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import AccessDeniedError, SettingsError, TryAgainError
from medvl_jobs.pipeline.children import ATTEMPT, GENERATION, OUTPUT, Templates
from medvl_jobs.pipeline.decide import Create, Done, Fail, Seen, Wait, decide
from medvl_jobs.pipeline.plan import Step
from medvl_jobs.pipeline.signs import ended
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.cluster import ClusterSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest

log = logging.getLogger(__name__)

ON_GPU = ("train", "eval")
LONGEST_PAUSE_SECONDS = 60.0
CLAIM_SECONDS = 120.0
"""A claim that is not followed by a child for so long is void: longer than a request to create one can take."""
REFUSED_SECONDS = 60.0
"""How long refusals are borne by one that was let in before."""
PATIENCE_SECONDS = 3.0
"""A child without a pod for longer makes one ask why."""


class ClusterExecutor:
    """A cluster, and the plan that a run is carried out by."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Connect, and check the rights. Raises what `Cluster` raises, and `SettingsError` without a plan."""
        if settings.plan is None:
            remedy = "the chart names it; by hand: cluster.plan=<release>-plan-<hash>, the ConfigMap of the release"
            raise SettingsError("no plan is named", where="cluster.plan", remedy=remedy)
        self.cluster = Cluster(settings.namespace)
        self.cluster.check()
        self.plan = self.cluster.plan(settings.plan)

    def rehearse(self, steps: Sequence[Step], pinned: RunSettings) -> None:
        """Let the API server and its webhooks judge every child that may be created. Raises `SettingsError`."""
        templates = Templates.of(self.plan, pinned)
        for stage in _needs(steps, templates):
            try:
                self.cluster.create(templates.child(stage), dry_run=True)
            except ConflictError:
                pass  # it is there
            except SettingsError as error:
                if "does not support dry run" not in error.what:  # a webhook that cannot be asked without consequences
                    raise

    def execute(self, steps: Sequence[Step], pinned: RunSettings, storage: Storage) -> None:
        """Bring every step that is to run to its end; returns when the last one's manifest is in the store.

        Raises the error of the first stage that fails for good: what runs, runs on, and nothing more is created.
        """
        coordinator = _Coordinator(steps, Templates.of(self.plan, pinned), storage, self.cluster)
        goal = short_hash([pinned.storage.endpoint_url, storage.uri, steps[-1].stage.prefix])
        lease = RunLease(self.cluster, f"medvl-run-{goal}", self.plan.reference, pinned.cluster)
        with lease.held(), self.cluster.changes(coordinator.selector) as bell:
            coordinator.run(lease, bell)


def _needs(steps: Sequence[Step], templates: Templates) -> dict[Stage, list[str]]:
    """The stages that are to run, each with those of them that it needs; the model cache's before those with a GPU."""
    todo = [step.stage for step in steps if step.action == "run"]
    names = {stage.name for stage in todo}
    needs = {stage: [name for name in stage.needs if name in names] for stage in todo}
    with_model = [stage for stage in todo if stage.manifest in ON_GPU]
    if not with_model or "model" not in templates.manifests:
        return needs
    for stage in with_model:
        needs[stage].append("model")
    model = Stage("model", ("model",), f"the model cache: {templates.settings.model.fingerprint}")
    return {model: [], **needs}


class _Coordinator:
    """What one coordinator knows: all of it can be found out again."""

    def __init__(self, steps: Sequence[Step], templates: Templates, storage: Storage, cluster: Cluster) -> None:
        self.templates, self.storage, self.cluster = templates, storage, cluster
        self.settings = templates.settings.cluster
        self.needs = _needs(steps, templates)
        outputs = ",".join(sorted(templates.output(stage) for stage in self.needs))
        self.selector = f"{OUTPUT} in ({outputs})"
        plan = templates.plan
        self.claims = {
            stage.name: Lease(
                cluster, f"medvl-output-{templates.output(stage)}", plan.name, plan.reference, CLAIM_SECONDS
            )
            for stage in self.needs
        }
        """Of two runs that need the same output, one at a time may create a child for it."""
        self.finished: set[str] = set()
        self.told: dict[str, str] = {}
        self.podless: dict[str, float] = {}

    def run(self, lease: RunLease, bell: Bell) -> None:
        """Until all is finished. What fails for a while, the API or the store, is tried again with longer pauses."""
        pause, fine = 1.0, time.monotonic()
        while True:
            try:
                if self.round(lease):
                    return
                pause, fine = 1.0, time.monotonic()
                bell.wait(self.settings.resync_seconds)
                continue
            except ConflictError as conflict:
                log.info("somebody else was there first (%s); looking again in %g s", conflict.what, pause)
            except TryAgainError as trouble:
                log.warning("%s; looking again in %g s", trouble, pause)
            except AccessDeniedError as denied:
                # It was let in before. A server has just started; or a key was changed, which a new pod reads.
                if time.monotonic() - fine > REFUSED_SECONDS:
                    raise TryAgainError(denied.what, where=denied.where, remedy=denied.remedy) from denied
                log.warning("%s; looking again in %g s", denied, pause)
            lease.check()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def round(self, lease: RunLease) -> bool:
        """Look at everything once and make every move that can be made; returns whether all is finished."""
        children = self.cluster.children(self.selector)
        pods = self.cluster.pods(self.selector)
        for stage, needs in self.needs.items():
            if stage.name in self.finished or not self.finished.issuperset(needs):
                continue
            match decide(stage, self._seen(stage, children, pods), self.settings):
                case Done():
                    self.finished.add(stage.name)
                    self._tell(stage, "done", event="StageDone")
                case Wait(state, pod):
                    follow = pod and stage.words[0] == "train" and state.startswith("runs")
                    self._tell(stage, f"{state}: kubectl logs -f {pod}" if follow else state)
                case Create() as move:
                    lease.check()
                    self._create(stage, move)
                case Fail() as move:
                    lease.check()
                    self._fail(stage, move)
        return len(self.finished) == len(self.needs)

    def _seen(self, stage: Stage, children: Sequence[Json], pods: Sequence[Json]) -> Seen:
        output = self.templates.output(stage)
        of_stage = [child for child in children if child["metadata"]["labels"][OUTPUT] == output]
        own = [child for child in of_stage if self.templates.plan.uid in owners(child)]
        if stage.name == "model":  # its output is a volume, which only its child has seen
            generation = str(self.settings.generation)
            of_now = [child for child in own if child["metadata"]["labels"].get(GENERATION) == generation]
            finished = any(phase(child) is Phase.SUCCEEDED for child in of_now)
        else:  # asked after the children were looked at: one that has ended has written its manifest before
            finished = read_manifest(self.storage, stage.prefix) is not None
        children = sorted(own, key=lambda child: int(child["metadata"]["labels"].get(ATTEMPT, 1)))
        of_output = [pod for pod in pods if pod["metadata"]["labels"][OUTPUT] == output]
        podless = self._podless_seconds(children[-1], of_output) if children else 0.0
        return Seen(
            children=children,
            others=[child for child in of_stage if child not in own],
            pods=of_output,
            finished=finished,
            now=datetime.now(UTC),
            podless_seconds=podless,
            warning=self.cluster.warning(children[-1]) if podless > PATIENCE_SECONDS else None,
        )

    def _podless_seconds(self, child: Json, pods: Sequence[Json]) -> float:
        """By this coordinator's own clock: how long it may have waited in a queue before does not count."""
        uid, now = child["metadata"]["uid"], time.monotonic()
        if phase(child) is not Phase.WAITING or any(uid in owners(pod) for pod in pods):
            self.podless.pop(uid, None)
            return 0.0
        return now - self.podless.setdefault(uid, now)

    def _create(self, stage: Stage, move: Create) -> None:
        claim = self.claims[stage.name]
        if claim.take() is None:
            self._tell(stage, f"waits: {claim.holder} is about to make the same")
            return
        child = self.templates.child(stage, move.attempt, move.tried)
        self.cluster.create(child)
        again = f", attempt {move.attempt}: {move.why}" if move.why else ""
        self._tell(stage, f"created {child['metadata']['name']}{again}", event="StageCreated")

    def _fail(self, stage: Stage, move: Fail) -> None:
        error = move.error
        if move.pod:
            log.error("the last lines of %s:\n%s", move.pod["metadata"]["name"], self.cluster.tail(move.pod).rstrip())
        if move.give_up:
            self.cluster.give_up(move.give_up, error.as_dict())
        ended(self.templates.settings, self.storage, stage, error)
        self._tell(stage, f"failed: {error.what}", event="StageFailed")
        raise error

    def _tell(self, stage: Stage, state: str, *, event: str | None = None) -> None:
        """One line per change."""
        if self.told.get(stage.name) == state:
            return
        self.told[stage.name] = state
        log.info("%-19s %s", stage.name, state)
        if event:
            kind: EventType = "Warning" if event == "StageFailed" else "Normal"
            self.cluster.event(self.templates.plan, kind, event, f"{stage.name} {state}")
