"""The page as a Deployment: off unless asked for, one pod, and nobody let in who was not meant to be."""

from __future__ import annotations

import yaml
from rendering import Json, merged, render

from medvl_jobs.settings.chat import ChatSettings

CHAT: Json = {"chat": {"enabled": True}}


def container(values: Json) -> Json:
    (found,) = render(values).one("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(values: Json) -> Json:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(values)["env"]}


def test_there_is_none_unless_asked_for() -> None:
    kinds = {each["kind"] for each in render({}).objects}
    assert not kinds & {"Deployment", "Service"}


def test_it_changes_nothing_of_the_run() -> None:
    """Enabling it when the run is finished must start no stage again."""
    without, enabled = render({}), render(CHAT)
    assert enabled.plan == without.plan
    assert enabled.one("Job") == without.one("Job")


def test_it_serves_the_runs_adapter_from_the_eval_image() -> None:
    rendered = render(CHAT)
    main = container(CHAT)
    assert [*main["command"], *main["args"]] == ["medvl", "chat", "--config", "/etc/medvl/run.yaml"]
    assert main["image"] == rendered.main("eval")["image"]
    spec = rendered.one("Deployment")["spec"]["template"]["spec"]
    (run,) = [each for each in spec["volumes"] if each["name"] == "run"]
    assert run["configMap"]["name"] == rendered.plan["metadata"]["name"]
    assert [each["args"][0] for each in spec["initContainers"]] == ["model"]
    assert spec["serviceAccountName"] == "medvl-train-worker"


def test_a_second_pod_does_not_wait_for_the_gpus_of_the_first() -> None:
    spec = render(CHAT).one("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert container(CHAT)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in container({"chat": {"enabled": True, "gpus": 0}})["resources"]["limits"]


def test_the_service_finds_the_pod() -> None:
    rendered = render(merged(CHAT, {"chat": {"podLabels": {"app.kubernetes.io/component": "other"}}}))
    deployment, service = rendered.one("Deployment")["spec"], rendered.one("Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= labels.items()
    main = container(CHAT)
    (port,) = main["ports"]
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": port["name"]}]
    assert environment(CHAT)["MEDVL_CHAT__PORT"] == str(port["containerPort"])
    probes = {name: main[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_the_password_comes_from_a_secret_that_must_be_there() -> None:
    values = merged(CHAT, {"chat": {"password": {"existingSecret": "chat", "key": "word"}}})
    assert environment(values)["MEDVL_CHAT__PASSWORD"] == {"secretKeyRef": {"name": "chat", "key": "word"}}
    assert "MEDVL_CHAT__PASSWORD" not in environment(CHAT)


def test_its_variables_are_settings() -> None:
    values = merged(CHAT, {"chat": {"password": {"existingSecret": "chat"}}})
    named = {name.removeprefix("MEDVL_CHAT__").lower() for name in environment(values) if "CHAT__" in name}
    assert named == {"host", "port", "password"}
    assert named <= ChatSettings.model_fields.keys()


def test_the_network_lets_in_whom_the_values_name() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"team": "ml"}}}]
    policies = {"networkPolicy": {"enabled": True}}
    for values, allowed in ((CHAT, None), (merged(CHAT, {"chat": {"allowFrom": peers}}), peers)):
        found = render(merged(policies, values)).all("NetworkPolicy")
        (own,) = [each["spec"] for each in found if each["metadata"]["name"] == "medvl-train-chat"]
        assert own["podSelector"]["matchLabels"] == render(CHAT).one("Service")["spec"]["selector"]
        (rule,) = own["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": 7860}]
        assert rule.get("from") == allowed
    assert "chat" not in yaml.safe_dump(render(policies).objects)
