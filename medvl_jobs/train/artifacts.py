"""What lies beside the adapter: the log, the curve, the totals and the model card. LLaMA-Factory's names and keys."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from operator import mul
from typing import Any

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.train.batches import Totals

Line = dict[str, Any]
"""One log step, as `tracking.LogLines` prints it."""


OWN_FIELDS = (
    "effective_batch", "seen_samples", "padding_share", "total_flops", "mfu",
    "gpu_allocated_bytes", "gpu_reserved_bytes", "host_memory_bytes", "data_wait_share",
)  # fmt: skip
"""What a line says and LLaMA-Factory's do not."""
PEAKS = ("gpu_allocated_bytes", "gpu_reserved_bytes", "host_memory_bytes")


def trainer_log(lines: Sequence[Line]) -> str:
    """``trainer_log.jsonl`` with LLaMA-Factory's keys, so that its readers work here, and ours after them."""
    return "".join(
        json.dumps(
            {
                "current_steps": line["step"],
                "total_steps": line["total_steps"],
                "loss": line["loss"],
                "lr": line["lr"],
                "grad_norm": line["grad_norm"],
                "epoch": line["epoch"],
                "percentage": round(100 * line["step"] / line["total_steps"], 2),
                "elapsed_time": _clock(line["elapsed_seconds"]),
                "remaining_time": _clock(line["eta_seconds"]),
                "throughput": line["tokens_per_second"],
                "total_tokens": line["total_tokens"],
                **{name: line[name] for name in OWN_FIELDS},
            }
        )
        + "\n"
        for line in lines
    )


def all_results(lines: Sequence[Line], totals: Totals) -> dict[str, float]:
    """``all_results.json``: totals over all attempts of this training, the first seven under LLaMA-Factory's names.

    ``totals``: what was seen, epochs included. What no line knows, such as the MFU without a GPU, is left out.
    """
    last = lines[-1]
    seconds = last["elapsed_seconds"]
    return {
        "epoch": last["epoch"],
        "num_input_tokens_seen": last["total_tokens"],
        "train_loss": mean_loss(lines),
        "train_runtime": seconds,
        "train_samples_per_second": round(totals.examples / seconds, 3),
        "train_steps_per_second": round(last["step"] / seconds, 3),
        "train_steps": last["step"],
        "left_out_steps": sum(line.get("left_out_steps", 0) for line in lines),
        "effective_batch": round(totals.examples / last["step"], 2),
        "seen_samples": totals.examples,
        "padding_share": round(totals.padding_share, 4),
        "total_flops": last["total_flops"],
        **_means(lines),
        **{f"peak_{name}": max(found) for name in PEAKS if (found := _known(lines, name))},
    }


def _means(lines: Sequence[Line]) -> dict[str, float]:
    """Over the seconds of training that each line is about."""
    ends = [0.0, *(line["elapsed_seconds"] for line in lines)]
    seconds = [end - start for start, end in pairwise(ends)]
    return {
        f"mean_{name}": round(sum(map(mul, found, seconds)) / ends[-1], 4)
        for name in ("mfu", "data_wait_share")
        if len(found := _known(lines, name)) == len(lines)
    }


def _known(lines: Sequence[Line], name: str) -> list[float]:
    return [line[name] for line in lines if line[name] is not None]


def mean_loss(lines: Sequence[Line]) -> float:
    """Mean over all steps but those left out; each line is the mean over the steps since the one before.

    NaN when there are none.
    """
    total = steps = before = 0.0
    for line in lines:
        counted = line["step"] - before - line.get("left_out_steps", 0)
        total += (line["loss"] or 0.0) * counted
        steps, before = steps + counted, line["step"]
    return total / steps if steps else math.nan


def loss_figure(lines: Sequence[Line]) -> bytes:
    """``training_loss.png``: the loss per log step, as it was and smoothed."""
    from matplotlib.figure import Figure  # noqa: PLC0415  a second of import that only this function needs

    finite = [line for line in lines if line["loss"] is not None]
    steps, losses = [line["step"] for line in finite], [line["loss"] for line in finite]
    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="tight")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#1f77b4", alpha=0.4, label="loss per log step")
    axes.plot(steps, smooth(losses), color="#1f77b4", label="smoothed")
    axes.set(xlabel="optimiser step", ylabel="loss (nats per answer token)", title="Training loss")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    # Without the version stamp the same curve gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def model_card(settings: RunSettings, results: dict[str, float], parameters: tuple[int, int], prepared: str) -> str:
    """The README of the adapter, with the front matter that Hugging Face reads."""
    trainable, total = parameters
    train, lora = settings.train, settings.train.lora
    places = [*lora.modules, *(["every expert"] if lora.experts == "all" else [])]
    rows = {
        "base model": f"`{settings.model.path}` (fingerprint `{settings.model.fingerprint}`)",
        "data": f"`{prepared}`",
        "question": settings.prompt.question,
        "LoRA": f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout}, on {', '.join(places)}",
        "trained parameters": f"{trainable:,} of {total:,} ({100 * trainable / total:.3f} %)",
        "schedule": f"{train.epochs:g} epochs, {results['train_steps']:.0f} steps of "
        f"{results['effective_batch']:g} examples, {train.scheduler} from {train.learning_rate:g}, seed {train.seed}",
        "mean training loss": f"{results['train_loss']:.4f} nats per answer token",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nbase_model: {settings.model.path}\nlibrary_name: peft\npipeline_tag: image-text-to-text\n---\n\n"
        f"# {settings.name}: LoRA adapter\n\nTrained with medvl. Research use only: not a medical device, not for "
        f"diagnosis.\n\n| | |\n|---|---|\n{table}\n\n"
        "```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base_model, adapter_folder)\n```\n"
    )


def _clock(seconds: float) -> str:
    """``H:MM:SS``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
