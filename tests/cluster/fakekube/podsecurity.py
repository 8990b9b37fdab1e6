"""Pod Security admission at level ``restricted``, for namespaces that enforce it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.fakekube.errors import Json, forbidden

ENFORCE = "pod-security.kubernetes.io/enforce"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
_VOLUMES |= {"persistentVolumeClaim", "image"}
"""``image`` is taken as from Kubernetes 1.33 on, and always: an older API server would refuse it here."""
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def check_security(namespace: Json, pod: Json) -> None:
    """Raises 403 for a pod that a namespace with the label ``restricted`` does not take."""
    if (namespace["metadata"].get("labels") or {}).get(ENFORCE) != "restricted":
        return
    problems = list(_violations(pod["spec"]))
    if problems:
        why = f'violates PodSecurity "restricted:latest": {", ".join(problems)}'
        raise forbidden("pods", pod["metadata"]["name"], why)


def _violations(spec: Json) -> Iterator[str]:
    for field in _HOST:
        if spec.get(field):
            yield f"host namespaces ({field}=true)"
    for volume in spec.get("volumes") or []:
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{kind}")'
    whole: Json = spec.get("securityContext") or {}
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        own: Json = container.get("securityContext") or {}
        for rule, must in _of_container(whole, own):
            yield f'{rule} (container "{container["name"]}" must {must})'


def _of_container(whole: Json, own: Json) -> Iterator[tuple[str, str]]:
    def effective(field: str) -> Any:
        return own.get(field, whole.get(field))

    if own.get("privileged"):
        yield "privileged", "not set securityContext.privileged=true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation != false", "set securityContext.allowPrivilegeEscalation=false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "unrestricted capabilities", 'set securityContext.capabilities.drop=["ALL"]'
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield "unrestricted capabilities", "not add capabilities"
    if effective("runAsNonRoot") is not True:
        yield "runAsNonRoot != true", "set securityContext.runAsNonRoot=true"
    if effective("runAsUser") == 0:
        yield "runAsUser=0", "not set runAsUser=0"
    if (effective("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile", 'set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
