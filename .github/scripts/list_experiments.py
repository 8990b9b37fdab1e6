"""``list_experiments.py [FROM TO]``: names of experiments as a JSON list: all, or those that TO adds or changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath

FOLDER = PurePosixPath("experiments")


def names(files: Iterable[str]) -> list[str]:
    """The experiments that some of these files are."""
    paths = map(PurePosixPath, files)
    return sorted(path.stem for path in paths if path.parent == FOLDER and path.suffix == ".yaml")


def _files(commits: list[str]) -> list[str]:
    everything = not commits or set(commits[0]) == {"0"}  # what GitHub calls the commit before a branch's first
    command = ["ls-files"] if everything else ["diff", "--name-only", "--diff-filter=d", *commits]
    listed = subprocess.run(["git", *command, "--", str(FOLDER)], stdout=subprocess.PIPE, text=True, check=True)
    return listed.stdout.splitlines()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(names(_files(sys.argv[1:]))) + "\n")
