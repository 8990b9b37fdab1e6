"""prep and report work in an environment that has only their own extra: no torch, nothing forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_data
import yaml

from medvl_jobs.samples.build import build_sample
from medvl_jobs.settings.keys import stage_keys

ROOT = Path(__file__).parents[2]


def environment(folder: Path, extra: str) -> Path:
    """A virtual environment with ``medvl[extra]`` as an image would install it; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    constraints = ROOT / "images" / "constraints.txt"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), f"{ROOT}[{extra}]"]
    subprocess.run(install, check=True)
    return python


def installed(python: Path) -> set[str]:
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True)
    return {entry["name"] for entry in json.loads(listed.stdout)}


@pytest.mark.timeout(1800)
def test_prep_alone(tmp_path: Path) -> None:
    config = build_sample(tmp_path / "data", rows=146)
    python = environment(tmp_path / "venv", "prep")
    assert not installed(python) & {"torch", "transformers", "datasets", "matplotlib"}
    prep = [str(python), "-m", "medvl_jobs", "prep", "--config", str(config)]
    for more in (["--check"], []):
        subprocess.run([*prep, *more], check=True, cwd=tmp_path)
    (checked,) = (tmp_path / "store" / "checks").iterdir()
    assert (checked / "index.html").stat().st_size > 10_000
    (prepared,) = (tmp_path / "store" / "prepared").iterdir()
    assert (prepared / "manifest.json").is_file()


@pytest.mark.timeout(1800)
def test_report_alone(tmp_path: Path) -> None:
    world = report_data.world()
    world.keys = stage_keys(world.settings)
    world.store(tmp_path / "store")
    config = tmp_path / "run.yaml"
    settings = world.settings.model_dump(mode="json") | {"storage": {"uri": str(tmp_path / "store")}}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    python = environment(tmp_path / "venv", "report")
    assert not installed(python) & {"torch", "transformers", "datasets", "matplotlib"}
    subprocess.run([str(python), "-m", "medvl_jobs", "report", "--config", str(config)], check=True, cwd=tmp_path)
    (page,) = (tmp_path / "store" / "runs").rglob("index.html")
    assert page.stat().st_size > 10_000
