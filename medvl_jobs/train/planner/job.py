"""`medvl plan`: read the model's configuration and the dataset's card, print what a training needs.

What cannot fit is refused, with the nearest settings that do. Nothing else is read and nothing is written: neither
weights nor images, and no GPU is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl_jobs.contracts import layout
from medvl_jobs.errors import MissingInputError, SettingsError, TryAgainError
from medvl_jobs.model.weights import in_bucket, is_hub_id
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.train.planner.choose import Estimate, choose, estimates, refusal
from medvl_jobs.train.planner.gpus import GPUS, Gpu
from medvl_jobs.train.planner.setup import Setup, Workload
from medvl_jobs.train.planner.shape import ModelShape

TOKENS_PER_WORD = 1.65
"""Of Qwen3's tokenizer on medical English."""
TEMPLATE_TOKENS = 14
"""What the chat template writes around image, question and answer."""
PIXELS_PER_TOKEN = 32 * 32
CONFIG = "config.json"
_BY_HAND = "set plan.examples, plan.mean_tokens and plan.answer_tokens"


@dataclass(frozen=True)
class Plan:
    """A training, on paper."""

    setup: Setup
    gpu: Gpu
    estimates: tuple[Estimate, ...]
    price: float | None

    def require(self) -> Estimate:
        """The estimate that a training would run under. Raises `SettingsError` when none of them fits."""
        if (chosen := choose(self.estimates)) is not None:
            return chosen
        raise refusal(self.setup, self.gpu.memory_bytes, self.gpu.name)

    def __str__(self) -> str:
        work, shape = self.setup.work, self.setup.shape
        trained = self.setup.lora_parameters
        return "\n".join(
            [
                f"{shape.parameters:,} parameters, and {trained:,} of the adapter",
                f"{work.examples:,} examples of {work.mean_tokens:.0f} tokens, {work.answer_tokens:.0f} of them the "
                f"answer's; none above {work.longest_tokens}",
                f"{self.setup.gpus} × {self.gpu.name}, {_gb(self.gpu.memory_bytes)} GB each; "
                f"{self.estimates[0].steps} steps of {self.setup.step_examples * self.setup.gpus} examples",
                f"forward passes of a GPU: {self.setup.passes} a step, of at most {self.setup.largest_batch} tokens",
                "",
                *_table(self.estimates, self.price),
                "",
                "Of logits and layer only the larger counts: the loss is over when a layer's backward pass begins.",
                self._verdict(),
            ]
        )

    def _verdict(self) -> str:
        if (chosen := choose(self.estimates)) is None:
            return "Nothing of this fits."
        fastest = f", the fastest of {len(self.estimates)} that were compared" if len(self.estimates) > 1 else ""
        return f"The train stage runs zero {chosen.zero}{fastest}."


def run(settings: RunSettings, storage: Storage, prep_key: str | None) -> Plan:
    """Plan the training of these settings. ``prep_key`` is of the dataset whose card is read, where one is needed.

    Raises `MissingInputError` when the configuration or the card is not there, `SettingsError` when nothing says how
    much data there is.
    """
    shape = ModelShape.from_config(read_config(settings), settings.model.path)
    work = workload(settings, None if prep_key is None else read_card(storage, prep_key))
    plan, gpu = settings.plan, GPUS[settings.plan.gpu]
    setup = Setup(shape, settings.model, settings.train, work, plan.gpus)
    return Plan(setup, gpu, estimates(setup, gpu, plan.attained), plan.price_per_gpu_hour)


def read_config(settings: RunSettings) -> dict[str, Any]:
    """``config.json`` of the base model, from a directory, a bucket or the hub, without the weights beside it."""
    path = settings.model.path
    if in_bucket(path):
        found = open_storage(settings.storage.model_copy(update={"uri": path.rstrip("/")})).read_bytes(CONFIG)
    elif Path(path).is_dir() or not is_hub_id(path):
        file = Path(path) / CONFIG
        if not file.is_file():
            remedy = "set model.path to a directory in Hugging Face's layout, s3://bucket/path, or a hub id"
            raise MissingInputError("the base model does not exist, or has no config.json", where=path, remedy=remedy)
        found = file.read_bytes()
    else:
        found = _from_hub(settings.model)
    try:
        return dict(json.loads(found))
    except ValueError as error:
        remedy = "copy config.json from the original checkpoint"
        raise MissingInputError(f"config.json cannot be read: {error}", where=path, remedy=remedy) from error


def _from_hub(model: ModelSettings) -> bytes:
    # Here and not above: it takes a second to import, and most runs have their model in a directory.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(hf_hub_download(model.path, CONFIG, revision=model.revision)).read_bytes()
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        remedy = "without access to the hub, set model.path to a directory that holds the model's config.json"
        raise TryAgainError("the hub did not give the model's config.json", where=model.path, remedy=remedy) from error


def read_card(storage: Storage, prep_key: str) -> dict[str, Any]:
    """The card of a prepared dataset. Raises `MissingInputError` when prep has not made it."""
    key = f"{layout.prepared(prep_key)}/{layout.CARD}"
    if storage.stat(key) is None:
        raise MissingInputError(
            "the dataset is not prepared, so its size is not known",
            where=f"{storage.uri}/{key}",
            remedy=f"run medvl prep first, or {_BY_HAND}",
        )
    return dict(json.loads(storage.read_bytes(key)))


def workload(settings: RunSettings, card: dict[str, Any] | None) -> Workload:
    """The data in tokens: what the settings say, else what follows from the card's pixels and words.

    An image has one token for 32 × 32 pixels after scaling, a caption `TOKENS_PER_WORD`; the product of
    the mean sides is taken for the mean area. Examples above ``train.max_tokens`` are left out, as training does.
    """
    plan, most = settings.plan, settings.train.max_tokens
    question = f"{settings.prompt.system or ''} {settings.prompt.question}"
    prompt = TEMPLATE_TOKENS + TOKENS_PER_WORD * len(question.split())
    if card is None:
        if plan.examples is None or plan.mean_tokens is None or plan.answer_tokens is None:
            remedy = f"{_BY_HAND}, or prep.source to a dataset that medvl prep has prepared"
            raise SettingsError("how much data there is is not known", where="plan", remedy=remedy)
        examples, mean, answer, longest = plan.examples, float(plan.mean_tokens), float(plan.answer_tokens), float(most)
        image = max(mean - answer - prompt, _visual_tokens(settings.model, 0))
    else:
        words, images = card["captions"]["words"], card["images"]
        sides = (images["longer_side_pixels"], images["shorter_side_pixels"])
        image = _visual_tokens(settings.model, sides[0]["mean"] * sides[1]["mean"])
        examples = plan.examples or card["split"]["train"]["rows"]
        answer = float(plan.answer_tokens or TOKENS_PER_WORD * words["mean"])
        mean = float(plan.mean_tokens or image + prompt + answer)
        largest = _visual_tokens(settings.model, sides[0]["max"] * sides[1]["max"])
        longest = largest + prompt + TOKENS_PER_WORD * words["max"]
    longest = min(most, max(mean, plan.longest_tokens or longest))
    return Workload(examples, min(mean, most), round(longest), answer, image)


def _visual_tokens(model: ModelSettings, pixels: float) -> float:
    return min(max(pixels, model.min_pixels), model.max_pixels) / PIXELS_PER_TOKEN


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.1f}"


def _table(columns: tuple[Estimate, ...], price: float | None) -> list[str]:
    """One column for each ZeRO stage."""
    terms = (
        "weights", "lora", "gradients", "optimiser", "gathered", "inputs", "activations", "logits", "layer",
        "fragmentation", "runtime",
    )  # fmt: skip
    rows: list[tuple[str, Callable[[Estimate], str]]] = [
        ("GB on each GPU", lambda each: f"zero {each.zero}"),
        *((term, lambda each, term=term: f"{getattr(each.memory, term) / 1e9:.2f}") for term in terms),
        ("peak", lambda each: f"{each.memory.total / 1e9:.2f}"),
        ("fits", lambda each: "yes" if each.fits else "no"),
        ("seconds a step", lambda each: f"{each.step.seconds:.1f}"),
        ("hours", lambda each: f"{each.hours:.2f}"),
        ("GPU-hours", lambda each: f"{each.gpu_hours:.2f}"),
    ]
    if any(each.memory.host for each in columns):
        rows.insert(len(terms) + 3, ("host, each GPU's", lambda each: f"{each.memory.host / 1e9:.2f}"))
    if price is not None:
        rows.append(("cost", lambda each: f"{each.gpu_hours * price:.2f}"))
    return [f"{name:<18}" + "".join(f"{value(each):>10}" for each in columns) for name, value in rows]
