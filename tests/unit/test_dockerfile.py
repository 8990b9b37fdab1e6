"""The Dockerfile is clean, its versions have one place, and what is built knows nothing of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text(encoding="utf-8")


def pinned() -> dict[str, str]:
    lines = (IMAGES / "versions.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, "--no-color", IMAGES / "Dockerfile"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_base_is_a_stage_or_pinned() -> None:
    """No image has a name in the Dockerfile: the only base is an argument, which versions.env pins by its digest."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert {"prep", "train", "eval"} <= stages
    assert bases - stages == {"${BASE}", "accelerator-${ACCELERATOR}", "eval-${ACCELERATOR}"}
    assert re.search(r"^ARG BASE$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/\S+:\S+@sha256:[0-9a-f]{64}", pinned()["BASE"])


def test_versions_have_one_place() -> None:
    """Each line of versions.env is an argument of the Dockerfile without a default, and the other way round."""
    required = set(re.findall(r"^ARG (\w+)$", DOCKERFILE, re.MULTILINE))
    assert required == {*pinned(), "VERSION", "GIT_SHA"}
    assert not re.findall(r"==\d", re.sub(r"^ *#.*$", "", DOCKERFILE, flags=re.MULTILINE))


def test_every_installation_is_constrained() -> None:
    installs = re.findall(r"pip --python /opt/\w+ (?:install|wheel)(?:[^&\n]|\\\n)*", DOCKERFILE)
    lists = ("--constraint constraints.txt", "--constraint vllm-constraints.txt", "--requirement flash-attn.txt")
    locked = (*lists, "--no-deps")
    assert len(installs) == 6
    assert [words for words in installs if not any(lock in words for lock in locked)] == []


def test_what_only_the_gpu_images_have_is_locked() -> None:
    """flash-attn's build finds its tools in the constraints, and what it requires is pinned there."""
    constraints = (IMAGES / "constraints.txt").read_text(encoding="utf-8").lower()
    (tools,) = re.findall(r"grep -E '\^\(([\w|]+)\)==' constraints.txt", DOCKERFILE)
    required = {*tools.split("|"), "einops", "cuda-bindings", "nvidia-nvjitlink"}
    assert required - set(re.findall(r"^([\w-]+)==", constraints, re.MULTILINE)) == set()


def test_vllm_has_an_environment_and_a_list_of_its_own() -> None:
    """With our torch, which has to fit the driver, and another transformers. The image for CPUs does without."""
    lines = (IMAGES / "vllm-constraints.txt").read_text(encoding="utf-8").splitlines()
    theirs = dict(line.split("==") for line in lines if not line.startswith("#"))
    ours = dict(re.findall(r"^([\w-]+)==(\S+)", (IMAGES / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert theirs["torch"] == ours["torch"]
    assert theirs["torchvision"] == pinned()["TORCHVISION_VERSION"]
    assert theirs["transformers"] != ours["transformers"]
    assert not {"vllm", "triton", "cuda-bindings"} & set(theirs)
    assert list(theirs) == sorted(theirs)
    cpu, cuda = (DOCKERFILE.split(f"FROM gpu AS eval-{kind}\n")[1].split("\nFROM")[0] for kind in ("cpu", "cuda"))
    assert "vllm" not in cpu
    assert "COPY --from=vllm-venv /opt/vllm /opt/vllm" in cuda
    assert cuda.index("USER 0:0") < cuda.index("USER 65532:65532")


def test_deepspeed_comes_with_the_train_extra_and_no_other_way() -> None:
    """One place for its version, in CPU and GPU images alike; what it requires is locked as well."""
    words = [sys.executable, IMAGES / "requirements.py", "train", "eval"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"deepspeed", "tensorboard"} <= set(listed)
    assert "DEEPSPEED_VERSION" not in pinned()
    constraints = (IMAGES / "constraints.txt").read_text(encoding="utf-8").lower()
    required = {"deepspeed", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo", "tensorboard", "grpcio"}
    assert required - set(re.findall(r"^([\w-]+)==", constraints, re.MULTILINE)) == set()
    assert re.search(r"DS_BUILD_OPS=0 pip --python /opt/venv install", DOCKERFILE)


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"  # .git, tests, .venv, the demo and whatever comes
    allowed = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert allowed == {name for words in copies for name in words.split()}
    assert patterns[-1] == "**/__pycache__"


def test_wheels_are_made_for_all_that_an_image_installs() -> None:
    """build-cpu's images see its wheels and no index."""

    def extras(text: str) -> set[str]:
        return {extra for found in re.findall(r"requirements\.py ([a-z ]+)", text) for extra in found.split()}

    installed = extras(DOCKERFILE)
    assert len(installed) >= 6
    assert extras((IMAGES / "build-cpu").read_text(encoding="utf-8")) == installed


def test_an_image_has_what_its_stages_require() -> None:
    words = [sys.executable, IMAGES / "requirements.py", "prep", "report", "cluster"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"boto3", "pyarrow", "jinja2", "kubernetes"} <= set(listed)
    assert listed == sorted(set(listed))
    assert "torch" not in listed
