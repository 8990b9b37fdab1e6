"""Where this process runs: the facts of the environment that are not settings."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class Environment:
    """Provenance and places that a container sets through ``MEDVL_…`` variables."""

    git_sha: str | None
    image_digest: str | None
    termination_log: Path
    completion_index: str | None
    """Which pod of an Indexed Job this is, ``"0"`` and on; none outside of one."""


def read_environment() -> Environment:
    """Read ``MEDVL_GIT_SHA``, ``MEDVL_IMAGE_DIGEST``, ``MEDVL_TERMINATION_LOG`` and ``JOB_COMPLETION_INDEX``."""
    return Environment(
        git_sha=os.environ.get("MEDVL_GIT_SHA") or _git_sha(),
        image_digest=os.environ.get("MEDVL_IMAGE_DIGEST"),
        termination_log=Path(os.environ.get("MEDVL_TERMINATION_LOG", KUBERNETES_TERMINATION_LOG)),
        completion_index=os.environ.get("JOB_COMPLETION_INDEX"),
    )


@functools.cache
def _git_sha() -> str | None:
    """The commit of the checkout that the package runs from, with ``-dirty`` when it has changes; else ``None``."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
