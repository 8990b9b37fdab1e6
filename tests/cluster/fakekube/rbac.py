"""Who may do what: bearer tokens, and the Roles and RoleBindings in the store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.fakekube.errors import ApiError, Json, forbidden, unauthorized
from cluster.fakekube.resources import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Resource
from cluster.fakekube.store import Store


@dataclass(frozen=True)
class User:
    name: str
    namespace: str = ""
    """Of a service account; empty for the administrator, who may do everything."""
    account: str = ""


ADMIN = User("kubernetes-admin")


@dataclass(frozen=True)
class Access:
    """One question: may somebody do this?"""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def path(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Authority:
    """Knows the tokens and reads the rules."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.admin_token = secrets.token_hex(16)
        self._users = {self.admin_token: ADMIN}

    def token_of(self, namespace: str, account: str) -> str:
        """The token of a service account, made on the first call."""
        for token, user in self._users.items():
            if (user.namespace, user.account) == (namespace, account):
                return token
        token = secrets.token_hex(16)
        self._users[token] = User(f"system:serviceaccount:{namespace}:{account}", namespace, account)
        return token

    def user(self, authorization: str) -> User:
        """Raises 401 for a token that nobody has."""
        user = self._users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise unauthorized()
        return user

    def check(self, user: User, access: Access) -> None:
        """Raises 403 in Kubernetes' words."""
        if not self.allows(user, access):
            raise _refusal(user, access)

    def allows(self, user: User, access: Access) -> bool:
        return user == ADMIN or any(_fits(rule, access) for rule in self._rules(user, access.namespace))

    def _rules(self, user: User, namespace: str) -> Iterator[Json]:
        bindings: list[tuple[Resource, str]] = [(CLUSTER_ROLE_BINDING, "")]
        if namespace:
            bindings.append((ROLE_BINDING, namespace))
        for resource, where in bindings:
            for _, binding in self._store.every(resource, where):
                if any(_is(subject, user, where) for subject in binding.get("subjects") or []):
                    reference = binding["roleRef"]
                    is_role = reference["kind"] == "Role"
                    role = self._store.get(
                        ROLE if is_role else CLUSTER_ROLE, where if is_role else "", reference["name"]
                    )
                    yield from (role or {}).get("rules") or []


def _is(subject: Json, user: User, namespace: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return (subject.get("namespace", namespace), subject["name"]) == (user.namespace, user.account)
    if subject["kind"] == "Group":
        groups = ("system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{user.namespace}")
        return subject["name"] in groups
    return bool(subject["name"] == user.name)


def _fits(rule: Json, access: Access) -> bool:
    def has(field: str, *values: str) -> bool:
        return any(value in ("*", *values) for value in rule.get(field) or [])

    if not (has("verbs", access.verb) and has("apiGroups", access.group)):
        return False
    if not has("resources", access.path, f"*/{access.subresource}" if access.subresource else access.path):
        return False
    names = rule.get("resourceNames") or []
    return not names or access.name in names


def _refusal(user: User, access: Access) -> ApiError:
    where = f' in the namespace "{access.namespace}"' if access.namespace else " at the cluster scope"
    why = f'User "{user.name}" cannot {access.verb} resource "{access.path}" in API group "{access.group}"{where}'
    qualified = f"{access.resource}.{access.group}" if access.group else access.resource
    return forbidden(qualified, access.name, why)
