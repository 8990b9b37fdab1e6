"""helm and kubectl as programs, with a home of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_SECONDS = 400
Ran = subprocess.CompletedProcess[str]


class Tools:
    """Both as the administrator of one cluster."""

    def __init__(self, kubeconfig: Path, home: Path) -> None:
        places = {"KUBECONFIG": str(kubeconfig), "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        self._env = {**places, "TZ": "UTC"}

    def run(self, program: Path, args: Sequence[str], stdin: str) -> Ran:
        command = [str(program), *args]
        return subprocess.run(
            command, env=self._env, input=stdin, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )

    def start(self, program: Path, args: Sequence[str]) -> subprocess.Popen[str]:
        """In the background; stdout and stderr are one pipe."""
        command = [str(program), *args]
        return subprocess.Popen(command, env=self._env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
