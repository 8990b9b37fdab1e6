"""Print what extras of ./pyproject.toml require, one requirement a line: ``python3 requirements.py EXTRA…``.

The Dockerfile installs from this list and not from pyproject.toml, which changes far more often.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [requirement for extra in sys.argv[1:] for requirement in project["optional-dependencies"][extra]]
print(*sorted({*project["dependencies"], *extras}), sep="\n")  # noqa: T201
