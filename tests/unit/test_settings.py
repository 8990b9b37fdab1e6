from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from medvl_jobs.errors import MissingInputError, SettingsError
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import STAGE_VERSIONS, StageKeys, stage_keys, variants
from medvl_jobs.settings.run import RunSettings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("MEDVL_")]:
        monkeypatch.delenv(name)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, "profile: demo\ntrain: {epochs: 2, lora: {alpha: 7}}\n")
    settings = load_settings(config)
    assert (settings.train.epochs, settings.train.lora.alpha, settings.train.lora.rank) == (2, 7, 32)
    assert settings.model.dtype == "float32"  # from the profile
    assert settings.train.seed == 42  # the default
    monkeypatch.setenv("MEDVL_TRAIN__EPOCHS", "3")
    monkeypatch.setenv("MEDVL_TRAIN__LORA__RANK", "5")
    assert load_settings(config).train.epochs == 3
    settings = load_settings(config, ("train.epochs=4",))
    assert (settings.train.epochs, settings.train.lora.rank, settings.train.lora.alpha) == (4, 5, 7)


def test_zero_and_false_are_values(tmp_path: Path) -> None:
    settings = load_settings(
        write(tmp_path, "prep: {llamafactory_export: false, gates: {refused: 0}}\ntrain: {warmup_ratio: 0}\n")
    )
    assert settings.prep.llamafactory_export is False
    assert settings.prep.gates.refused == 0
    assert settings.train.warmup_ratio == 0


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("train.epoch=5",), "unknown setting 'train.epoch'", "did you mean 'epochs'?"),
        (("trian.epochs=5",), "unknown setting 'trian'", "did you mean 'train'?"),
        (("train.lora.r=5",), "unknown setting 'train.lora.r'", "known here: rank, alpha, dropout, modules"),
        (("prep.val_ratio=1.5",), "prep.val_ratio: Input should be less than 1, got 1.5", "correct"),
        (("prep.val_ratio=0",), "greater than 0", "correct"),
        (("model.min_pixels=2000000",), "raise model.max_pixels", "correct"),
        (("name=Has Capitals",), "name: String should match pattern", "correct"),
        (("profile=dmeo",), "there is no profile 'dmeo'", "use one of: demo"),
        (("prep.source=[a",), "not YAML", "quote it"),
        (("train.learning_rate=.inf",), "finite number", "correct"),
        (("train.lora.experts=all", "train.lora.dropout=0.1"), "have no dropout", "correct"),
        (("train.seed=-1",), "train.seed: Input should be greater than or equal to 0", "correct"),
        (("prompt.answer_prefix=' x'",), "prompt.answer_prefix: String should match", "correct"),
        (("epochs",), "not of the form section.key=value", "train.epochs=3"),
    ],
)
def test_wrong_settings_say_what_and_what_to_do(words: tuple[str, ...], message: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, words)
    assert message in caught.value.what
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 64


def test_wrong_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVL_STORGE__URI", "s3://x")
    with pytest.raises(SettingsError, match="MEDVL_STORGE__URI") as caught:
        load_settings()
    assert "storage" in caught.value.remedy
    monkeypatch.delenv("MEDVL_STORGE__URI")
    monkeypatch.setenv("MEDVL_STORAGE__URL", "s3://x")
    with pytest.raises(SettingsError, match=r"unknown setting 'storage\.url'"):
        load_settings()


def test_a_service_named_medvl_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes injects these into every pod of the namespace."""
    for name in ("CHAT_SERVICE_HOST", "CHAT_SERVICE_PORT_HTTP", "CHAT_PORT", "CHAT_PORT_7860_TCP_ADDR"):
        monkeypatch.setenv(f"MEDVL_{name}", "10.0.0.1")
    load_settings()


def test_settings_file_that_is_not_there_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        load_settings(tmp_path / "nowhere.yaml")
    for text in ("- a list\n", "a: [unclosed\n", "\xff"):
        (tmp_path / "bad.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(SettingsError):
            load_settings(tmp_path / "bad.yaml")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().train.epochs = 3  # type: ignore[misc]


def test_a_dumped_run_loads_as_itself(tmp_path: Path) -> None:
    import yaml

    settings = load_settings(None, ("profile=demo", "train.epochs=2"))
    assert load_settings(write(tmp_path, yaml.safe_dump(settings.model_dump(mode="json")))) == settings


def pinned(*words: str) -> StageKeys:
    return stage_keys(load_settings(None, ("prep.source_fingerprint=a", "model.fingerprint=b", *words)))


def test_keys_need_a_pinned_run() -> None:
    with pytest.raises(ValueError, match="not pinned"):
        stage_keys(RunSettings())


def test_keys_change_with_what_matters_and_with_nothing_else() -> None:
    keys = pinned()
    assert keys == pinned(
        "storage.uri=/elsewhere", "eval.batch_size=1", "train.log_every_steps=1", "prep.source=/moved"
    )
    ranked = pinned("train.lora.rank=4")
    assert ranked.prep == keys.prep
    assert ranked.eval[Variant.BASE] == keys.eval[Variant.BASE]
    assert ranked.adapter != keys.adapter
    assert ranked.eval[Variant.TUNED] != keys.eval[Variant.TUNED]
    assert ranked.report != keys.report
    shown = pinned("report.gallery=3")
    assert (shown.eval, shown.adapter) == (keys.eval, keys.adapter)
    assert shown.report != keys.report
    data = pinned("prep.source_fingerprint=c")
    assert not set(data.eval.values()) & set(keys.eval.values())


def test_a_merged_model_answers_under_a_key_of_its_own() -> None:
    lora, merged, remote = (
        pinned("eval.engine=openai", f"eval.server.adapter={adapter}", *more)
        for adapter, more in (("lora", ()), ("merged", ()), ("merged", ("eval.server.url=http://vllm:8000/v1",)))
    )
    assert merged.eval[Variant.BASE] == lora.eval[Variant.BASE]
    assert merged.eval[Variant.TUNED] != lora.eval[Variant.TUNED]
    assert remote.eval == lora.eval  # there the server has been told by somebody else
    assert merged.adapter == lora.adapter


def test_keys_are_stable_across_versions_of_medvl() -> None:
    """A key that moves makes every user's cluster train again: move it on purpose, by STAGE_VERSIONS."""
    assert STAGE_VERSIONS == {"prep": 2, "train": 2, "eval": 2, "report": 2}
    assert (pinned().prep, pinned().adapter) == ("d345fee5aa3fe6d3", "e558dd2c466eec0e")


def test_settings_that_came_later_move_a_key_only_when_they_are_used() -> None:
    keys = pinned()
    assert pinned("train.lora.experts=none", "prompt.answer_prefix=''") == keys
    experts = pinned("train.lora.experts=all")
    assert (experts.prep, experts.eval[Variant.BASE]) == (keys.prep, keys.eval[Variant.BASE])
    assert experts.adapter != keys.adapter
    prefixed = pinned("prompt.answer_prefix=Well, ")
    assert prefixed.adapter != keys.adapter
    assert not set(prefixed.eval.values()) & set(keys.eval.values())


def test_an_adapter_from_outside_replaces_the_trained_one() -> None:
    keys = pinned("eval.adapter=adapters/x", "eval.adapter_fingerprint=f")
    assert keys.adapter == "f"
    assert keys.eval[Variant.BASE] == pinned().eval[Variant.BASE]
    assert keys.eval[Variant.TUNED] != pinned().eval[Variant.TUNED]


def test_controls_are_optional() -> None:
    settings = load_settings(None, ("eval.controls=[]",))
    assert variants(settings) == (Variant.BASE, Variant.TUNED)
