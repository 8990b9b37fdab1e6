"""The export follows the settings; that it loads is the matter of `test_prep_llamafactory.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llamafactory_rules
import pytest
from prep_data import record, run_settings, write_parquet

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.export import check_prompt
from medvl_jobs.prep.job import run
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.storage.local import LocalStorage


def export(tmp_path: Path, prompt: PromptSettings | None = None, **prep: Any) -> Path:
    source = write_parquet(tmp_path / "source.parquet", [record(number) for number in range(60)])
    settings = run_settings(source, tmp_path / "store", **prep)
    settings = settings.model_copy(update={"prompt": prompt or PromptSettings()})
    run(settings, LocalStorage(tmp_path / "store"), "k")
    return tmp_path / "store" / "prepared" / "k" / "llamafactory"


def test_the_json_holds_a_row_a_line(tmp_path: Path) -> None:
    folder = export(tmp_path)
    for name in ("mllm_train_data", "mllm_val_data"):
        lines = (folder / f"{name}.json").read_text(encoding="utf-8").splitlines()
        assert (lines[0], lines[-1]) == ("[", "]")
        assert len(lines) - 2 == len(llamafactory_rules.load(folder, name))


def test_the_prompt_is_that_of_the_settings(tmp_path: Path) -> None:
    folder = export(tmp_path, PromptSettings(question="What is this?", system="Be brief."))
    for example in llamafactory_rules.load(folder, "mllm_val_data"):
        assert example.contents[0] == "<image>What is this?"
        assert example.system == "Be brief."


@pytest.mark.parametrize("command", ["<image>", "<video>", "<audio>", "<|im_end|>", "<|image_pad|>", "<think>", "\0"])
@pytest.mark.parametrize("name", ["question", "system"])
def test_a_prompt_that_is_no_text_is_refused(name: str, command: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_prompt(PromptSettings(**{name: f"What does {command} show?"}))
    assert repr(command) in caught.value.what
    assert caught.value.where.startswith(f"prompt.{name}=")


def test_the_export_can_be_left_out(tmp_path: Path) -> None:
    assert not export(tmp_path, llamafactory_export=False).exists()
