"""A merged model answers as the adapter beside its base does, from either layout of the experts, shard by shard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_model
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Provenance
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, SettingsError
from medvl_jobs.model.checkpoint import load_model, load_processor
from medvl_jobs.model.collate import training_batch
from medvl_jobs.model.merge import IDENTITY, read_adapter
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import Publication
from medvl_jobs.train.export import export_merged
from medvl_jobs.train.lora import add_lora

LORAS = {"attention": LoraSettings(rank=4, alpha=8), "experts": LoraSettings(rank=4, alpha=8, experts="all")}
KEYS = StageKeys(prep="p", adapter="a", eval={}, report="r")
FINGERPRINT = "f" * 16


def in_shards(folder: Path, shards: int, *, hub: bool) -> RunSettings:
    """The tiny model in float32, in so many files, its experts in the hub's layout or as transformers 5 saves them."""
    shutil.copytree(tiny_model.BASE_MODEL, folder)
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    if not hub:
        weights = {n: v.transpose(1, 2).contiguous() if ".experts." in n else v for n, v in weights.items()}
    (folder / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number in range(shards):
        part = {name: value for place, (name, value) in enumerate(weights.items()) if place % shards == number}
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in weights.values())
    words = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(words))
    model = tiny_model.MODEL.model_copy(update={"path": str(folder), "fingerprint": FINGERPRINT})
    return RunSettings.model_construct(model=model)


def publish(storage: Storage, settings: RunSettings, lora: LoraSettings, scratch: Path) -> PeftModel:
    """Store an adapter that changes something; returns its model."""
    torch.manual_seed(0)
    tuned = add_lora(load_model(settings.model), lora)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    tuned.save_pretrained(scratch)
    (scratch / layout.ADAPTER_BASE).write_text(json.dumps({"fingerprint": FINGERPRINT}))
    publication = Publication(storage, layout.adapter(KEYS.adapter))
    for path in scratch.iterdir():
        publication.upload(path, path.name)
    publication.finish(Provenance(stage="train", key=KEYS.adapter, settings={}, wall_seconds=0.0))
    return tuned


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    renderer = tiny_model.renderer()
    batch = training_batch(tiny_model.examples(renderer), renderer.tokenizer.pad_token_id)
    asked = {n: v for n, v in batch.items() if n not in {"labels", "shift_labels", "logits_to_keep"}}
    return model.eval()(**asked, use_cache=False).logits


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage(StorageSettings(uri=str(tmp_path / "store")))


@pytest.mark.parametrize("hub", [True, False], ids=["hub", "in-memory"])
@pytest.mark.parametrize("lora", LORAS)
def test_the_merged_model_answers_as_the_adapter_does(tmp_path: Path, store: Storage, lora: str, hub: bool) -> None:
    settings = in_shards(tmp_path / "base", 3, hub=hub)
    tuned = publish(store, settings, LORAS[lora], tmp_path / "adapter")
    export_merged(settings, store, KEYS, tmp_path / "merged")

    merged = settings.model.model_copy(update={"path": str(tmp_path / "merged")})
    load_processor(merged)
    base, expected = logits(load_model(settings.model)), logits(tuned)
    difference = float((logits(load_model(merged)) - expected).abs().max() / expected.abs().max())
    assert difference <= 1e-5
    assert not torch.allclose(base, expected, rtol=1e-2, atol=1e-2)

    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    files = sorted(path.name for path in (tmp_path / "merged").iterdir())
    assert files == sorted([*(path.name for path in (tmp_path / "base").iterdir() if path.suffix != ".md"), IDENTITY])
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())["weight_map"]
    assert load_file(tmp_path / "merged" / index[name])[name].shape == (8, 128, 96)
    identity = json.loads((tmp_path / "merged" / IDENTITY).read_text())
    assert identity == {"adapter": "a", "base": settings.model.path, "fingerprint": FINGERPRINT}


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(tmp_path: Path, store: Storage) -> None:
    settings, out = in_shards(tmp_path / "base", 1, hub=True), tmp_path / "merged"
    with pytest.raises(MissingInputError):
        export_merged(settings, store, KEYS, out)
    publish(store, settings, LORAS["experts"], tmp_path / "adapter")
    other = RunSettings.model_construct(model=settings.model.model_copy(update={"fingerprint": "other"}))
    with pytest.raises(SchemaMismatchError, match="trained on base model f"):
        export_merged(other, store, KEYS, out)
    file = next((tmp_path / "base").glob("*.safetensors"))
    weights = load_file(file)
    name = "model.language_model.layers.1.self_attn.q_proj.weight"
    save_file({each: value for each, value in weights.items() if each != name}, file)
    with pytest.raises(SchemaMismatchError, match="lacks 1 weights that the adapter changes"):
        export_merged(settings, store, KEYS, out)
    save_file({each: value[:-1] if each == name else value for each, value in weights.items()}, file)
    with pytest.raises(SchemaMismatchError, match=r"q_proj.weight has the shape \[127, 128\]"):
        export_merged(settings, store, KEYS, out)
    assert [path.name for path in tmp_path.iterdir() if "merged" in path.name] == []
    save_file(weights, file)
    export_merged(settings, store, KEYS, out)
    with pytest.raises(SettingsError, match="exists"):
        export_merged(settings, store, KEYS, out)


def test_an_adapter_with_more_than_pairs_is_refused(tmp_path: Path, store: Storage) -> None:
    """A trained bias or word would be left out without a word."""
    settings = in_shards(tmp_path / "base", 1, hub=True)
    folder = tmp_path / "adapter"
    publish(store, settings, LORAS["attention"], folder)
    weights = load_file(folder / layout.ADAPTER_WEIGHTS)
    name = next(each for each in weights if each.endswith(".lora_B.weight"))
    for odd in (
        weights | {name.replace(".weight", ".bias"): torch.ones(1)},
        {n: weights[n] for n in weights.keys() - {name}},
    ):
        save_file(odd, folder / layout.ADAPTER_WEIGHTS)
        with pytest.raises(SchemaMismatchError, match=r"1 weights too many or too few, such as .*lora_B"):
            read_adapter(folder)


def test_weights_that_are_no_numbers_or_missing_are_found(tmp_path: Path, store: Storage) -> None:
    settings = in_shards(tmp_path / "base", 1, hub=True)
    publish(store, settings, LORAS["attention"], tmp_path / "adapter")
    file = next((tmp_path / "base").glob("*.safetensors"))
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"] * torch.nan}, file)
    with pytest.raises(SchemaMismatchError, match="no finite numbers"):
        export_merged(settings, store, KEYS, tmp_path / "first")
    save_file({name: value for name, value in weights.items() if name != "lm_head.weight"}, file)
    with pytest.raises(SchemaMismatchError, match="1 weights are missing"):
        export_merged(settings, store, KEYS, tmp_path / "second")
