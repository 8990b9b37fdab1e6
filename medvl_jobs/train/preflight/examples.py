"""The data as the model will see it: how much of it is used, and the first forward pass decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.prompts import IGNORE, Encoded, PromptRenderer
from medvl_jobs.train.batches import Lengths, Schedule
from medvl_jobs.train.data import PREFETCHED, TrainingExamples
from medvl_jobs.train.preflight.findings import Finding
from medvl_jobs.train.preflight.prompt import OPEN, caption_findings, template_finding

LEFT_OUT_SHARE = 0.05
"""Above it a limit has become a choice of data: what is long is not what is average."""
SHOWN = 2
"""Examples of the first forward pass that are printed."""
PATCH_VALUES = 3 * 2 * 16 * 16
"""Numbers of an image patch: colours, times, and 16 × 16 pixels."""
LOOKED_AT = 16
"""Steps whose micro-batches are measured."""


def data_findings(examples: TrainingExamples, schedule: Schedule, process: int) -> list[Finding]:
    """Everything that can be known of the data without the model; ``process`` is whose first forward pass is shown."""
    renderer = examples.renderer
    thinks = OPEN in str(renderer.processor.chat_template)
    first = schedule[0].micro_batches[process][0]
    encoded = [examples[index] for index in first]
    return [
        examples_finding(len(examples), examples.left_out, schedule),
        tokens_finding(examples.lengths),
        template_finding(renderer.prompt_text, renderer.answer_prefix, thinks),
        *caption_findings(captions(examples), thinks),
        image_tokens_finding(encoded, expected(examples.lengths, first), renderer),
        first_batch_finding(encoded, renderer),
    ]


def captions(examples: TrainingExamples) -> Iterator[tuple[str, str]]:
    """(id, caption) of every example; no image is read."""
    for row in examples.rows.select_columns(["example_id", "caption"]):
        yield str(row["example_id"]), row["caption"]


def expected(lengths: Lengths, examples: Sequence[int]) -> list[tuple[int, int]]:
    """(tokens, image tokens) that were counted of these examples before anything was decoded."""
    return [(int(lengths.tokens[index]), int(lengths.images[index])) for index in examples]


def examples_finding(kept: int, left_out: int, schedule: Schedule) -> Finding:
    """How many examples are used, and how many are longer than ``train.max_tokens``, image tokens included.

    None is cut. None left, or fewer than processes, is refused before this, by `TrainingExamples` and `Schedule`.
    """
    share = left_out / (kept + left_out)
    said = (
        f"{kept:,} in {len(schedule):,} steps of {schedule.examples_per_step}; "
        f"{left_out:,} ({share:.1%}) are too long and left out, none is cut"
    )
    if share > LEFT_OUT_SHARE:
        return Finding("examples", said, "warning", "train.max_tokens", "raise it, or lower model.max_pixels")
    return Finding("examples", said)


def tokens_finding(lengths: Lengths) -> Finding:
    """What an example is made of; the labelled part alone teaches anything."""
    tokens, labels, images = (int(each.sum()) for each in (lengths.tokens, lengths.labels, lengths.images))
    return Finding(
        "tokens",
        f"{tokens / len(lengths):.0f} an example, {int(lengths.tokens.max())} the longest; "
        f"{images / tokens:.1%} of the image, {labels / tokens:.1%} labelled; the shortest answer has "
        f"{int(lengths.labels.min())}",
    )


def image_tokens_finding(
    encoded: Sequence[Encoded], counted: Sequence[tuple[int, int]], renderer: PromptRenderer
) -> Finding:
    """Compare three numbers of each example: its placeholders, its grid of patches, and what was counted from its size.

    Where they differ, the model would stop at it, or the budget of a forward pass would be wrong.
    """
    placeholder = renderer.processor.image_token_id
    wrong = 0
    total = 0
    for each, (tokens, images) in zip(encoded, counted, strict=True):
        placeholders = int((each.input_ids_L == placeholder).sum())
        of_grid = int(each.image_grid_thw.prod(dim=1).sum()) // renderer.merge_size**2
        wrong += not (placeholders == of_grid == images and len(each) == tokens)
        total += placeholders
    said = f"{total:,} in the first forward pass of {len(encoded)} examples"
    if wrong:
        what = f"{said}; {wrong} examples have others than their grid of patches, or than was counted"
        remedy = "use the model's own tokenizer and preprocessor_config.json, and the images that were prepared"
        return Finding("image tokens", what, "refused", "model.path", remedy, SchemaMismatchError)
    return Finding("image tokens", f"{said}, as many as their grids have")


def first_batch_finding(encoded: Sequence[Encoded], renderer: PromptRenderer) -> Finding:
    """The first examples in words."""
    shown = [f"{len(each)} tokens: {written(each, renderer)}" for each in encoded[:SHOWN]]
    return Finding("first batch", "\n".join(shown))


def written(example: Encoded, renderer: PromptRenderer) -> str:
    """All tokens as text: a run of image placeholders with its length, labelled tokens between ⟦ and ⟧."""
    labelled = example.labels_L != IGNORE
    start = int(labelled.int().argmax()) if labelled.any() else len(example)
    image = re.escape(renderer.processor.image_token)
    prompt, answer = (
        str(renderer.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for ids in (example.input_ids_L[:start], example.labels_L[start:])
    )
    prompt = re.sub(f"(?:{image})+", lambda run: f"{renderer.processor.image_token}×{_runs(run[0], image)}", prompt)
    return f"{prompt}⟦{answer}⟧".replace("\n", "\\n")


def _runs(text: str, pattern: str) -> int:
    return len(re.findall(pattern, text))


def largest_batch_bytes(schedule: Schedule, element_bytes: int) -> int:
    """Pixels of the largest micro-batch of the first steps: what lies in shared memory on its way."""
    images: np.ndarray = schedule.lengths.images
    most = max(
        int(images[list(batch)].sum())
        for number in range(min(len(schedule), LOOKED_AT))
        for share in schedule[number].micro_batches
        for batch in share
    )
    return most * 4 * PATCH_VALUES * element_bytes  # 2 × 2 patches make a token


def shared_memory_bytes(schedule: Schedule, element_bytes: int, workers: int) -> int:
    """What ``workers`` of one process have on its way at most: each `PREFETCHED` micro-batches. Ready-made pixels."""
    return workers * PREFETCHED * largest_batch_bytes(schedule, element_bytes) if workers else 0
