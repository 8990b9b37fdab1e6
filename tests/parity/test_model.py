"""The numbers that everything rests on, proved on the tiny model, which has the classes of the 30B."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import tiny_model
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from medvl_jobs.errors import MissingInputError, SchemaMismatchError
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import load_model, load_processor
from medvl_jobs.model.collate import prompt_batch, training_batch
from medvl_jobs.model.prompts import IGNORE, PromptRenderer
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora, trainable_parameters

LORA = LoraSettings(rank=4, alpha=8)
WITH_EXPERTS = LoraSettings(rank=4, alpha=8, experts="all")


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return tiny_model.renderer()


@pytest.fixture(scope="module")
def batch(renderer: PromptRenderer) -> dict[str, torch.Tensor]:
    return training_batch(tiny_model.examples(renderer), renderer.tokenizer.pad_token_id)


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name not in {"labels", "shift_labels", "logits_to_keep"}}


@torch.no_grad()
def logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs(batch), use_cache=False).logits


def disturb(model: PeftModel) -> None:
    """Give the adapter weights that change something; fresh ones do nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


@pytest.mark.parametrize("lora", [LORA, WITH_EXPERTS], ids=["attention", "experts"])
def test_fresh_adapter_is_the_base_bit_for_bit(batch: dict[str, torch.Tensor], lora: LoraSettings) -> None:
    base = logits(tiny_model.base_model(), batch)
    assert torch.equal(logits(add_lora(tiny_model.base_model(), lora), batch), base)


@pytest.mark.parametrize("lora", [LORA, WITH_EXPERTS], ids=["attention", "experts"])
def test_adapter_survives_saving_and_loading(
    batch: dict[str, torch.Tensor], tmp_path: Path, lora: LoraSettings
) -> None:
    tuned = add_lora(tiny_model.base_model(), lora)
    disturb(tuned)
    tuned.save_pretrained(tmp_path)
    reloaded = attach_adapter(tiny_model.base_model(), tmp_path)
    assert torch.equal(logits(reloaded, batch), logits(tuned, batch))
    assert not torch.equal(logits(tuned, batch), logits(tiny_model.base_model(), batch))


def test_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    tuned = add_lora(tiny_model.base_model(), LORA)
    for parameter in tuned.parameters():
        if parameter.requires_grad and parameter.shape[1] == 128:
            parameter.data = torch.zeros(parameter.shape[0], 64)
    tuned.save_pretrained(tmp_path)
    with pytest.raises(SchemaMismatchError, match="does not fit"):
        attach_adapter(tiny_model.base_model(), tmp_path)


def test_adapter_with_weights_missing_is_refused(tmp_path: Path) -> None:
    add_lora(tiny_model.base_model(), LORA).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layers.0." not in name},
        tmp_path / "adapter_model.safetensors",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own warning, which is all that a user of PEFT would get
        with pytest.raises(SchemaMismatchError, match="lacks 8 of its weights"):
            attach_adapter(tiny_model.base_model(), tmp_path)


def test_adapter_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    add_lora(tiny_model.base_model(), LORA).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    more = {name.replace("layers.0.", "layers.9."): value.clone() for name, value in weights.items()}
    save_file({**more, **weights}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(SchemaMismatchError, match=r"no place for 8 of the adapter's weights, .*layers\.9\."):
        attach_adapter(tiny_model.base_model(), tmp_path)


def test_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    for lost in ("tokenizer.json", "chat_template.jinja"):
        shutil.copytree(tiny_model.BASE_MODEL, tmp_path / lost)
        (tmp_path / lost / lost).unlink()
        with pytest.raises(MissingInputError):
            load_processor(tiny_model.MODEL.model_copy(update={"path": str(tmp_path / lost)}))
    torn = tmp_path / "torn"
    shutil.copytree(tiny_model.BASE_MODEL, torn)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(MissingInputError, match="cannot be loaded"):
        load_model(tiny_model.MODEL.model_copy(update={"path": str(torn)}))


def test_adapter_sits_on_text_attention_only() -> None:
    model = add_lora(tiny_model.base_model(), LORA)
    places = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".language_model." in name and ".self_attn." in name for name in places)
    assert len(places) == 4 * 4 * 2  # layers, projections, A and B
    # q and o: 4 x (128 + 128) each; k and v: 4 x (128 + 64) each; four layers.
    assert trainable_parameters(model)[0] == 4 * 4 * (2 * 256 + 2 * 192)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_experts_adapters_are_what_the_formula_says(batch: dict[str, torch.Tensor], experts: str) -> None:
    """W + alpha / r B A, written into each expert's weights by hand, answers the same as the adapter beside them."""
    settings = tiny_model.MODEL.model_copy(update={"experts": experts})
    tuned = add_lora(load_model(settings), WITH_EXPERTS)
    # Per layer: 8 experts x rank 4 x ((128 + 96) + (48 + 128)).
    assert trainable_parameters(tuned)[0] == 4 * 4 * (2 * 256 + 2 * 192) + 4 * 8 * 4 * (224 + 176)
    disturb(tuned)
    by_hand = add_lora(load_model(settings), LORA)
    weights = dict(tuned.named_parameters())
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if "lora_" in name:
                parameter.copy_(weights[name])
        for number, layer in enumerate(by_hand.base_model.model.model.language_model.layers):
            prefix = f"base_model.model.model.language_model.layers.{number}.mlp.experts"
            for place, target in (("base_layer.", layer.mlp.experts.gate_up_proj), ("", layer.mlp.experts.down_proj)):
                a_RI = weights[f"{prefix}.{place}lora_A.default.weight"].unflatten(0, (8, 4))
                b_OR = weights[f"{prefix}.{place}lora_B.default.weight"].unflatten(1, (4, 8))
                for expert in range(8):
                    target[expert] += 8 / 4 * b_OR[:, :, expert] @ a_RI[expert]
    torch.testing.assert_close(logits(tuned, batch), logits(by_hand, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_experts_adapters_get_the_same_gradients_from_recomputed_activations(
    batch: dict[str, torch.Tensor], experts: str
) -> None:
    def gradients(recompute: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = add_lora(load_model(tiny_model.MODEL.model_copy(update={"experts": experts})), WITH_EXPERTS).train()
        disturb(model)
        if recompute:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(**batch, use_cache=False).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}

    kept, recomputed = gradients(False), gradients(True)
    assert len(kept) == 4 * (4 + 2) * 2
    assert all(gradient.abs().sum() > 0 for gradient in kept.values())
    torch.testing.assert_close(recomputed, kept)


def test_adapter_that_meets_nothing_is_refused() -> None:
    model = tiny_model.base_model()
    model.config.text_config.num_hidden_layers = 5
    with pytest.raises(SchemaMismatchError, match="expected 20"):
        add_lora(model, LORA)


def test_only_the_answer_carries_labels(renderer: PromptRenderer) -> None:
    for example, caption in zip(tiny_model.examples(renderer), tiny_model.CAPTIONS, strict=True):
        labelled = example.labels_L[example.labels_L != IGNORE]
        assert renderer.tokenizer.decode(labelled) == f"{caption}<|im_end|>\n"
        assert torch.equal(example.input_ids_L[-len(labelled) :], labelled)


def test_loss_on_labelled_positions_is_the_loss(renderer: PromptRenderer, batch: dict[str, torch.Tensor]) -> None:
    model = tiny_model.base_model()
    short = model(**batch, use_cache=False)
    padded = [example.labels_L for example in tiny_model.examples(renderer)]
    labels = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=IGNORE)
    full = model(**inputs(batch), labels=labels, use_cache=False)
    assert short.logits.shape[-2] == len(batch["labels"]) < labels.numel()
    assert abs(float(short.loss.detach()) - float(full.loss.detach())) < 1e-6


def test_padding_side_does_not_move_logits(renderer: PromptRenderer) -> None:
    model = tiny_model.base_model()
    encoded = [renderer.encode(tiny_model.picture(n, 192 + 64 * n, 192)) for n in range(3)]
    together = logits(model, prompt_batch(encoded, renderer.tokenizer.pad_token_id))
    for row, example in zip(together, encoded, strict=True):
        alone = logits(model, prompt_batch([example], renderer.tokenizer.pad_token_id))[0]
        torch.testing.assert_close(row[-len(example) :], alone, rtol=1e-4, atol=1e-4)


def test_experts_lie_in_the_hub_layout() -> None:
    """The 30B's file has [experts, hidden, 2 x intermediate]; in memory transformers turns that round."""
    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    stored = load_file(Path(tiny_model.BASE_MODEL) / "model.safetensors")[name]
    loaded = tiny_model.base_model().get_parameter(name)
    assert stored.shape == (8, 128, 96)
    assert loaded.shape == (8, 96, 128)
    assert torch.equal(stored.transpose(1, 2).float(), loaded)


def test_missing_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    empty = tiny_model.MODEL.model_copy(update={"path": str(tmp_path)})
    with pytest.raises(MissingInputError, match=r"no config\.json"):
        load_model(empty)
    with pytest.raises(MissingInputError, match="cannot be loaded"):
        load_processor(empty.model_copy(update={"path": str(tmp_path / "nowhere")}))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SchemaMismatchError, match="'gpt2'"):
        load_model(empty)
