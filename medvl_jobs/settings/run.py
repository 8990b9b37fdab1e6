"""The settings of a whole run, and the one place where they are put together.

Later sources win: defaults < profile < file < environment (``MEDVL_TRAIN__EPOCHS=5``) < command line
(``train.epochs=5``).
"""

from __future__ import annotations

import difflib
import os
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from medvl_jobs.errors import MissingInputError, SettingsError
from medvl_jobs.settings.chat import ChatSettings
from medvl_jobs.settings.cluster import ClusterSettings
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.settings.live import LiveSettings
from medvl_jobs.settings.model import ModelSettings, PromptSettings
from medvl_jobs.settings.plan import PlanSettings
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.report import ReportSettings
from medvl_jobs.settings.section import Section
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.settings.train import TrainSettings

ENV_PREFIX = "MEDVL_"
ENV_NOT_SETTINGS = frozenset({"MEDVL_TERMINATION_LOG", "MEDVL_GIT_SHA", "MEDVL_IMAGE_DIGEST"})
"""Variables that say where a job runs, not what it does; see `settings.environment`."""

_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP)|$)")
"""Kubernetes tells every pod of a Service ``medvl-chat`` as ``MEDVL_CHAT_SERVICE_HOST``, ``MEDVL_CHAT_PORT``, …"""


class RunSettings(BaseSettings, Section):
    """Everything about one run. Frozen; unknown keys are errors."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")] = "medvl"
    """Name of the experiment: lower-case letters, digits and dashes, at most 40."""
    profile: str | None = None
    """Name of a set of defaults that ships with medvl: ``demo`` or ``tutorial``."""
    storage: StorageSettings = StorageSettings()
    model: ModelSettings = ModelSettings()
    prompt: PromptSettings = PromptSettings()
    prep: PrepSettings = PrepSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()
    report: ReportSettings = ReportSettings()
    plan: PlanSettings = PlanSettings()
    cluster: ClusterSettings = ClusterSettings()
    chat: ChatSettings = ChatSettings()
    live: LiveSettings = LiveSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (as keyword arguments) over environment; file and profile are added by `load_settings`."""
        return init_settings, env_settings


def load_settings(config: Path | None = None, overrides: tuple[str, ...] = ()) -> RunSettings:
    """Put the settings together. ``overrides`` are ``section.key=value`` words with the value in YAML.

    Raises `SettingsError` for anything unknown or impossible and `MissingInputError` when ``config`` does not exist.
    """
    command_line: dict[str, Any] = {}
    for word in overrides:
        _merge(command_line, _parse_override(word))
    file = _read_yaml(config) if config else {}
    named = command_line.get("profile") or os.environ.get(f"{ENV_PREFIX}PROFILE") or file.get("profile")
    profile = _read_profile(named) if named else {}

    class _Loaded(RunSettings):
        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any) -> Any:
            return (
                *super().settings_customise_sources(settings_cls, *args, **kwargs),
                InitSettingsSource(settings_cls, file),
                InitSettingsSource(settings_cls, profile),
            )

    _check_environment()
    try:
        loaded = _Loaded(**command_line)
    except (ValidationError, PydanticSettingsError) as error:
        raise _explain(error, config) from error
    # The frozen public class, so that equality and pickling do not depend on how the settings were loaded.
    return RunSettings.model_construct(**{name: getattr(loaded, name) for name in RunSettings.model_fields})


def _parse_override(word: str) -> dict[str, Any]:
    """``train.lora.rank=4`` -> ``{"train": {"lora": {"rank": 4}}}``."""
    path, separator, text = word.partition("=")
    if not separator or not path:
        raise SettingsError(f"'{word}' is not of the form section.key=value", remedy="for example: train.epochs=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"the value of '{path}' is not YAML: {text!r}", remedy="quote it: key='text'") from error
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingInputError("the settings file does not exist", where=str(path), remedy="check --config") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"the settings file cannot be read: {error}", where=str(path)) from error
    if not isinstance(values, dict | None):
        raise SettingsError("the settings file is not a mapping of sections", where=str(path))
    return values or {}


def _read_profile(name: str) -> dict[str, Any]:
    folder = resources.files("medvl_jobs.settings") / "profiles"
    known = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        raise SettingsError(f"there is no profile '{name}'", where="profile", remedy=f"use one of: {', '.join(known)}")
    return dict(yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))


def _check_environment() -> None:
    """Refuse a misspelt ``MEDVL_`` variable, which pydantic-settings would ignore."""
    for variable in sorted(os.environ):
        if not variable.startswith(ENV_PREFIX) or variable in ENV_NOT_SETTINGS or _SERVICE_LINK.search(variable):
            continue
        section = variable.removeprefix(ENV_PREFIX).split("__")[0].lower()
        if section not in RunSettings.model_fields:
            raise SettingsError(
                f"the environment variable {variable} names no setting",
                remedy=_suggest(section, RunSettings.model_fields) or "unset it",
            )


def _explain(error: ValidationError | PydanticSettingsError, config: Path | None) -> SettingsError:
    where = str(config) if config else "command line or environment"
    if not isinstance(error, ValidationError):
        return SettingsError(str(error), where=where)
    problems, remedies = [], []
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown setting '{path}'")
            remedies.append(_suggest(str(detail["loc"][-1]), _fields_at(detail["loc"][:-1])))
        else:
            shown = "" if _is_secret(detail["loc"]) else f", got {detail['input']!r}"
            problems.append(f"{path}: {detail['msg']}{shown}")
    return SettingsError(
        "; ".join(problems), where=where, remedy="; ".join(filter(None, remedies)) or "correct the value"
    )


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    model: Any = RunSettings
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _is_secret(path: tuple[int | str, ...]) -> bool:
    model: Any = RunSettings
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return "SecretStr" in str(model)


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
