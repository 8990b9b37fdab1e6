"""Base weights plus adapter, merged into the files of a checkpoint in the hub's layout.

    W + alpha / r · B A     in float32, then rounded to the dtype of the base's file

It works on the files of the checkpoint, one shard at a time: the host needs memory for a shard, not for the model.
In bfloat16 the rounding is not nothing: a change below 0.4 % of a weight may be lost, and answers can differ from those
of the adapter beside its base.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLMoeForConditionalGeneration

from medvl_jobs.contracts import layout
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, SettingsError
from medvl_jobs.model.checkpoint import load_processor
from medvl_jobs.model.layouts import EXPERTS, is_expert, to_hub_layout
from medvl_jobs.model.weights import LOADED, WEIGHTS, place
from medvl_jobs.settings.model import ModelSettings

log = logging.getLogger(__name__)

IDENTITY = "medvl_export.json"
"""What the model was merged of."""
_PREFIX = "base_model.model."
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None), "use_rslora": (False, None), "rank_pattern": ({}, None), "alpha_pattern": ({}, None),
    "bias": ("none", None), "modules_to_save": (None, []), "target_parameters": (None, [], list(EXPERTS)),
}  # fmt: skip
"""Values of an adapter's configuration under which it is merged by the formula above."""


@dataclass
class Adapter:
    """A and B of every weight that an adapter changes, by the weight's name in the checkpoint."""

    scale: float
    rank: int
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    merged: set[str] = field(default_factory=set)

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` with its update, in its own dtype: [out, in], or of experts [E, in, out]."""
        if name not in self.pairs:
            return weight
        a, b = self.pairs[name]
        self.merged.add(name)
        if not is_expert(name):
            _check_shape(name, weight.shape, (len(b), a.shape[1]))
            return (weight.float() + self.scale * (b.float() @ a.float())).to(weight.dtype)
        # PEFT lays the experts side by side: A [E · r, in], expert by expert; B [out, r · E], rank by rank.
        a_ERI, b_ORE = a.float().unflatten(0, (-1, self.rank)), b.float().unflatten(1, (self.rank, -1))
        _check_shape(name, weight.shape, (len(a_ERI), a.shape[1], len(b)))
        merged = torch.empty_like(weight)
        for expert, weight_IO in enumerate(weight):
            merged[expert] = weight_IO.float() + self.scale * (b_ORE[:, :, expert] @ a_ERI[expert]).T
        return merged


def base_folder(model: ModelSettings) -> Path:
    """The directory of the base model's files. Raises `SettingsError` for a model that lies on the hub alone."""
    base = Path(place(model)[0])
    if not base.is_dir():
        remedy = "set model.cache to a directory with room for it, and fill it with 'medvl model'"
        raise SettingsError("a model on the hub is merged from a cache", where=model.path, remedy=remedy)
    return base


def merge_files(base: Path, adapter: Path, out: Path, identity: dict[str, str | None]) -> None:
    """Write ``out`` shard by shard; under its own name only when it is whole."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shards, update = sorted(base.glob("*.safetensors")), read_adapter(adapter)
    if not shards:
        raise MissingInputError("the base model has no *.safetensors", where=str(base), remedy="convert it to them")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for path in base.iterdir():
            if path.name.endswith(LOADED) and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, partial / path.name)
        for number, shard in enumerate(shards, start=1):
            with safe_open(shard, framework="pt") as file:
                names, metadata = list(file.keys()), file.metadata()
                weights = {
                    name: update.merge(name, to_hub_layout(name, file.get_tensor(name), config)) for name in names
                }
            save_file(weights, partial / shard.name, metadata=metadata or {"format": "pt"})
            log.info("%s: %d of %d", shard.name, number, len(shards))
        if lost := sorted(set(update.pairs) - update.merged):
            raise _mismatch(f"the base model lacks {len(lost)} weights that the adapter changes, such as {lost[0]}")
        (partial / IDENTITY).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_adapter(folder: Path) -> Adapter:
    """An adapter that medvl trained. Raises `SchemaMismatchError` for one that is merged by another formula."""
    config = json.loads((folder / layout.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if foreign := [name for name, values in _PLAIN.items() if config.get(name) not in values]:
        raise _mismatch(f"the adapter is of another kind: {', '.join(f'{name}={config[name]}' for name in foreign)}")
    weights = load_file(folder / layout.ADAPTER_WEIGHTS)
    modules = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    ends = (".lora_A.weight", ".lora_B.weight")
    if odd := sorted(set(weights) ^ {f"{module}{end}" for module in modules for end in ends}):
        raise _mismatch(f"the adapter has {len(odd)} weights too many or too few, such as {odd[0]}")
    pairs = {_target(module): (weights[module + ends[0]], weights[module + ends[1]]) for module in modules}
    return Adapter(config["lora_alpha"] / config["r"], config["r"], pairs)


def check_merged(model: ModelSettings, out: Path) -> None:
    """What can be said of a 60 GB model in seconds: its processor loads, and every weight is there in its shape.

    The shapes are those of the class that loads it, built without memory; the first shard's values are read, and
    finite. Raises `SchemaMismatchError`.
    """
    load_processor(model.model_copy(update={"path": str(out), "revision": None}))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    kind = Qwen3VLMoeForConditionalGeneration
    with torch.device("meta"):
        empty = kind(kind.config_class.from_dict(config))
    expected = {name: list(to_hub_layout(name, value, config).shape) for name, value in empty.state_dict().items()}
    if config.get("tie_word_embeddings"):
        expected.pop("lm_head.weight", None)
    found: dict[str, list[int]] = {}
    shards = sorted(out.glob("*.safetensors"))
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no dict
            if shard == shards[0] and not all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys()):  # noqa: SIM118
                raise _mismatch(f"{shard.name} has weights that are no finite numbers")
    if wrong := sorted(name for name in expected if found.get(name) != expected[name]):
        raise _mismatch(f"{len(wrong)} weights are missing or of another shape, such as {wrong[0]}")


def _target(module: str) -> str:
    """Which weight a module of the adapter changes. Of the two of a layer's experts, PEFT wraps the first one first."""
    name = module.removeprefix(_PREFIX)
    for suffix, parameter in zip((".mlp.experts.base_layer", ".mlp.experts"), EXPERTS, strict=True):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}.{parameter}"
    return f"{name}.weight"


def _check_shape(name: str, found: torch.Size, expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise _mismatch(f"{name} has the shape {list(found)}, and the adapter's update {list(expected)}")


def _mismatch(what: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        what, where="the merged model", remedy="merge an adapter of medvl with the base it was made for"
    )
