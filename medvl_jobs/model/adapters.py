"""A LoRA adapter: found in a folder or in the store, checked against the base model, and attached to it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import InputRef
from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.versions import require_same_major
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import require_manifest

log = logging.getLogger(__name__)


def fetch_adapter(
    settings: RunSettings, storage: Storage, keys: StageKeys, scratch: Path
) -> tuple[Path, tuple[InputRef, ...]]:
    """The folder on this machine of ``eval.adapter``, or else of the run's own, and what to name it in a manifest.

    Raises `MissingInputError` when it is not there and `SchemaMismatchError` when it belongs to another base model.
    """
    if settings.eval.adapter and Path(settings.eval.adapter).is_dir():
        check_base(Path(settings.eval.adapter), settings)
        return Path(settings.eval.adapter), ()
    prefix = (settings.eval.adapter or layout.adapter(keys.adapter)).rstrip("/")
    manifest = require_manifest(storage, prefix, "train")
    folder = scratch / "adapter"
    for name in (layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS, layout.ADAPTER_BASE):
        storage.download(f"{prefix}/{name}", folder / name)
    check_base(folder, settings)
    return folder, (manifest.as_input(prefix),)


def check_base(folder: Path, settings: RunSettings) -> None:
    """Refuse an adapter that was trained on another base model: where the shapes agree, PEFT would load it silently.

    Raises `SchemaMismatchError`. An adapter that another tool made does not say what it belongs to: that is logged.
    """
    file = folder / layout.ADAPTER_BASE
    if not file.is_file():
        log.warning("%s does not say which base model it belongs to; its results are not verified", folder)
        return
    base = json.loads(file.read_text(encoding="utf-8"))
    require_same_major(base, settings.eval.adapter or str(folder))
    trained_on = base["fingerprint"]
    if trained_on != settings.model.fingerprint:
        raise SchemaMismatchError(
            f"the adapter was trained on base model {trained_on}, this run uses {settings.model.fingerprint}",
            where=settings.eval.adapter or str(folder),
            remedy="set model.path to that base model, or eval.adapter to an adapter of this one",
        )


def attach_adapter(model: torch.nn.Module, folder: Path) -> PeftModel:
    """The model with the adapter in ``folder``.

    Raises `SchemaMismatchError` when it was trained on another shape, has not every weight that its configuration
    promises, or has some for layers that the model lacks: PEFT would leave those at zero, or out, and the result would
    look like a weak tuned model.
    """
    remedy = "set model.path to the base that the adapter was trained on (see its README.md)"
    try:
        tuned = PeftModel.from_pretrained(model, folder).eval()
        stored = set(load_file(folder / layout.ADAPTER_WEIGHTS))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        what = f"the adapter does not fit the base model: {' '.join(str(error).split())[:300]}"
        raise SchemaMismatchError(what, where=str(folder), remedy=remedy) from error
    wanted = set(get_peft_model_state_dict(tuned))
    if lacking := sorted(wanted - stored):
        what = f"the adapter lacks {len(lacking)} of its weights, the first is {lacking[0]}"
        raise SchemaMismatchError(what, where=str(folder), remedy="use the whole adapter, or train it again")
    if homeless := sorted(name for name in stored - wanted if ".lora_" in name):
        what = f"the base model has no place for {len(homeless)} of the adapter's weights, the first is {homeless[0]}"
        raise SchemaMismatchError(what, where=str(folder), remedy=remedy)
    return tuned
