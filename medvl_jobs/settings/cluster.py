"""Settings of the coordinator, which carries out a run on Kubernetes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class ClusterSettings(Section):
    """How a run is carried out on a cluster. Nothing here changes a result."""

    plan: str | None = operational(None)
    """The ConfigMap with the manifests of the stages, as the Helm chart makes it."""
    namespace: str = operational("default")
    identity: str = operational("medvl")
    """Name under which this coordinator holds the run's Lease: its pod's, in a cluster."""
    generation: Annotated[int, Field(ge=1)] = operational(1)
    """Raised by a person to start again what has failed for good; failures of earlier generations do not count."""
    attempts: Annotated[int, Field(ge=1)] = operational(2)
    """How often a stage is tried. Each attempt is a Job that has its own, shorter patience (``backoffLimit``)."""
    give_up_after_seconds: Annotated[float, Field(gt=0)] = operational(900.0)
    """How long a pod may be unable to start: an image that cannot be pulled, a Secret that is missing."""
    resync_seconds: Annotated[float, Field(gt=0)] = operational(30.0)
    """Everything is looked at again after this time, even when no change was seen."""
    lease_seconds: Annotated[float, Field(ge=1)] = operational(30.0)
    """A coordinator that does not renew its Lease for so long is taken for dead."""
