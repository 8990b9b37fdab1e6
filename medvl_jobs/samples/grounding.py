"""Teach the tiny base model to see, once, before the package is built (``make base-model``).

LoRA on attention can teach wording, not sight: a base that never learned where things are stays blind after tuning. So
the base gets what the 30B got from its pre-training, at the scale of the sample, on blocks of slices that the demo
neither trains nor validates on. First the vision tower learns to *see*: what lies under each visual token. Then the
whole model learns to *speak*: short answers, in other words than the demo's reports.

    python -m medvl_jobs.samples.grounding --out medvl_jobs/samples/base-model
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedModel, Qwen3VLMoeForConditionalGeneration

from medvl_jobs.contracts.facts import PLANES, Facts
from medvl_jobs.model.collate import prompt_batch, training_batch
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.samples import captions, tiny
from medvl_jobs.samples.anatomy import STRUCTURES
from medvl_jobs.samples.build import teaches_base
from medvl_jobs.samples.views import Block, View, blocks, render
from medvl_jobs.samples.volumes import brain_mr, chest_ct
from medvl_jobs.settings.model import PromptSettings

log = logging.getLogger(__name__)

LIST_QUESTION = "List: plane and scan, body part, structures, largest one, its place and size, nodule."
TERMS_QUESTION = "List in standard terms: plane, body part, structures, region of interest, position, area, finding."
TERSE_QUESTIONS = (PromptSettings().question, "What is this?", "Describe the image.")
TERSE_SHARE, TERMS_SHARE = 0.2, 0.4
SEE_BATCH, SPEAK_BATCH = 32, 16
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 40
HELD_OUT = 192
SIDE_PIXELS = math.isqrt(tiny.IMAGE_PIXELS)
SIDE_TOKENS = SIDE_PIXELS // 32
KINDS = tuple(f"{modality} {plane}" for modality in ("CT", "MR") for plane in PLANES)

_PLANE = {"axial": "transverse", "coronal": "frontal", "sagittal": "lateral"}
_ROW = {"upper": "top", "middle": "middle", "lower": "bottom"}


def short_words(facts: Facts, *, plain: bool = True) -> str:
    """All facts as a list: ``lateral CT; chest; left lung, heart; largest left lung; top left; 10 percent; no nodule``.

    ``plain`` is the base's own voice. The other one has the standard terms (``sagittal``, ``upper-left``), each in the
    same place of the list: a base knows the words of its field, it is the report that it has never written.
    """
    region = facts.region
    if region is None:
        raise ValueError("a view without a region of interest teaches nothing")
    row, column = region.position.split("-")
    area = captions.spoken_percent(region.area_percent).removeprefix("approximately ")
    words = [
        f"{_PLANE[facts.plane or ''] if plain else facts.plane} {facts.modality}",
        facts.body_part or "",
        ", ".join(facts.structures),
        f"largest {region.structure}",
        f"{_ROW[row]} {column}" if plain else region.position,
        area.replace("%", " percent") if plain else area,
        facts.finding or "brain",
    ]
    return "; ".join(words)


def terse_words(facts: Facts) -> str:
    """What the base says when asked for a description: true, and little."""
    return f"A {_PLANE[facts.plane or '']} {facts.modality} of the {facts.body_part}."


def teaching_blocks() -> tuple[list[Block], list[Block]]:
    """Blocks that teach the base, and the demo's own, which only measure it."""
    every = [block for volume in (chest_ct(), brain_mr()) for block in blocks(volume)]
    return [b for b in every if teaches_base(b)], [b for b in every if not teaches_base(b)]


def views(among: list[Block], rng: np.random.Generator) -> Iterator[tuple[View, Facts]]:
    """Random views with their facts, for ever."""
    while True:
        view = render(among[int(rng.integers(len(among)))], rng, pixels=SIDE_PIXELS)
        facts = captions.facts_of(view)
        if facts is not None:
            yield view, facts


def corpus(among: list[Block], rng: np.random.Generator, count: int = 3000) -> list[str]:
    """Text for the tokenizer: both voices and the questions."""
    texts = [*TERSE_QUESTIONS, LIST_QUESTION, TERMS_QUESTION] * 20
    stream = views(among, rng)
    for _ in range(count):
        view, facts = next(stream)
        texts += [
            captions.report(facts, view.window, rng),
            short_words(facts),
            short_words(facts, plain=False),
            terse_words(facts),
        ]
    return texts


def rgb(view: View, rng: np.random.Generator | None = None) -> Image.Image:
    """The picture as the processor wants it; with ``rng`` in other contrast, brightness and noise.

    Two volumes hold few different slices, and a tower that learns them by heart is blind between them.
    """
    pixels = view.pixels_HW.astype(np.float32)
    if rng is not None:
        pixels = (pixels - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-20, 20)
        pixels += rng.normal(0, rng.uniform(0, 10), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")


def label_shares(view: View) -> np.ndarray:
    """Share of every structure (and of none, first) under each visual token; shape [tokens, structures + 1]."""
    cells = view.labels_HW.reshape(SIDE_TOKENS, 32, SIDE_TOKENS, 32).swapaxes(1, 2).reshape(-1, 32 * 32)
    return np.stack([np.bincount(cell, minlength=len(STRUCTURES) + 1) / cell.size for cell in cells])


class Teacher:
    """One pre-training run of the tiny model with plain AdamW; everything follows from the seed."""

    def __init__(self, seed: int) -> None:
        """Build tokenizer and model."""
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.taught, self.held_out = teaching_blocks()
        self.tokenizer = tiny.build_tokenizer(corpus(self.taught, self.rng))
        self.processor = tiny.build_processor(self.tokenizer)
        self.renderer = PromptRenderer(self.processor, PromptSettings())
        self.model = Qwen3VLMoeForConditionalGeneration._from_config(
            tiny.build_config(self.tokenizer), dtype=torch.float32
        )
        self.model.set_experts_implementation("eager")  # at 8 experts of this size the loop is the faster one
        embed = self.model.model.visual.patch_embed
        # A convolution whose stride is its kernel is a product; on a CPU Conv3d's backward takes a third of the step.
        embed.forward = lambda patches: F.linear(patches, embed.proj.weight.flatten(1), embed.proj.bias)

    def see(self, steps: int) -> None:
        """Teach the vision tower to tell structures, modality and plane; the two heads are thrown away afterwards."""
        hidden = self.model.config.text_config.hidden_size
        heads = torch.nn.ModuleList([torch.nn.Linear(hidden, len(STRUCTURES) + 1), torch.nn.Linear(hidden, len(KINDS))])
        visual = self.model.model.visual
        stream = views(self.taught, self.rng)

        def loss() -> torch.Tensor:
            chosen = [next(stream) for _ in range(SEE_BATCH)]
            batch = self.processor.image_processor([rgb(view, self.rng) for view, _ in chosen], return_tensors="pt")
            seen = visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
            shares = torch.tensor(np.stack([label_shares(view) for view, _ in chosen]), dtype=torch.float32)
            kinds = torch.tensor([KINDS.index(f"{facts.modality} {facts.plane}") for _, facts in chosen])
            total = torch.zeros(())
            for tokens in (seen.pooler_output, *seen.deepstack_features):
                per_image = tokens.view(SEE_BATCH, -1, hidden)
                total = total + F.cross_entropy(heads[0](per_image).flatten(0, 1), shares.flatten(0, 1))
                total = total + 0.1 * F.cross_entropy(heads[1](per_image.mean(1)), kinds)
            return total / (1 + len(seen.deepstack_features))

        self._descend("see", [*visual.parameters(), *heads.parameters()], loss, steps)

    def speak(self, steps: int) -> None:
        """Teach the whole model to say what it sees."""
        stream = views(self.taught, self.rng)

        def loss() -> torch.Tensor:
            examples = []
            for _ in range(SPEAK_BATCH):
                view, facts = next(stream)
                voice = self.rng.random()
                if voice < TERSE_SHARE:
                    question, answer = str(self.rng.choice(TERSE_QUESTIONS)), terse_words(facts)
                elif voice < TERSE_SHARE + TERMS_SHARE:
                    question, answer = TERMS_QUESTION, short_words(facts, plain=False)
                else:
                    question, answer = LIST_QUESTION, short_words(facts)
                examples.append(
                    self.renderer.encode(rgb(view, self.rng), answer, prompt_text=self.renderer.render(question))
                )
            batch = training_batch(examples, self.tokenizer.pad_token_id)
            spoken: torch.Tensor = self.model(**batch, use_cache=False).loss
            return spoken

        self._descend("speak", list(self.model.parameters()), loss, steps)

    def _descend(
        self, name: str, parameters: list[torch.nn.Parameter], loss: Callable[[], torch.Tensor], steps: int
    ) -> None:
        """AdamW with warm-up and cosine decay."""
        self.model.train()
        optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (0.51 + 0.49 * math.cos(math.pi * step / steps)),
        )
        losses = []
        for step in range(1, steps + 1):
            value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(float(value.detach()))
            if step % 100 == 0:
                log.info("%s: step %d of %d, loss %.4f", name, step, steps, float(np.mean(losses[-100:])))
            if name == "speak" and step % 400 == 0:
                log.info("held out: %s", self.measure(64))

    def measure(self, count: int) -> dict[str, float]:
        """Accuracy on the demo's blocks so far."""
        self.model.eval()
        measured = accuracy(self.model, self.renderer, self.held_out, count)
        self.model.train()
        return measured


@torch.inference_mode()
def accuracy(
    model: PreTrainedModel, renderer: PromptRenderer, among: list[Block], count: int, seed: int = 7
) -> dict[str, float]:
    """Share of right words per attribute over ``count`` random views of some blocks, asked for the plain list."""
    stream = views(among, np.random.default_rng(seed))
    text = renderer.render(LIST_QUESTION)
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, count, SPEAK_BATCH):
        chosen = [next(stream) for _ in range(min(SPEAK_BATCH, count - start))]
        examples = [renderer.encode(rgb(view), prompt_text=text) for view, _ in chosen]
        batch = prompt_batch(examples, renderer.tokenizer.pad_token_id)
        answers = model.generate(**batch, max_new_tokens=120, do_sample=False, temperature=None, top_p=None, top_k=None)
        for (_, facts), ids in zip(chosen, answers, strict=True):
            said = renderer.decode(ids[batch["input_ids"].shape[1] :])
            for name, correct in attributes_right(said, short_words(facts)).items():
                right[name].append(correct)
    return {name: round(float(np.mean(values)), 3) for name, values in right.items()}


ATTRIBUTES = ("plane", "body_part", "structures", "region", "position", "area", "finding")


def attributes_right(said: str, truth: str) -> dict[str, bool]:
    """Compare two lists of `short_words`, attribute by attribute; structures must be the same set."""
    pairs = zip(ATTRIBUTES, [*said.split("; "), *[""] * len(ATTRIBUTES)], truth.split("; "), strict=False)
    return {name: set(a.split(", ")) == set(b.split(", ")) for name, a, b in pairs}


def main() -> None:
    """Teach, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--see-steps", type=int, default=2000)
    parser.add_argument("--speak-steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    teacher = Teacher(arguments.seed)
    log.info("%d parameters", sum(p.numel() for p in teacher.model.parameters()))
    teacher.see(arguments.see_steps)
    teacher.speak(arguments.speak_steps)
    measured = teacher.measure(HELD_OUT)
    log.info("held out: %s", measured)
    tiny.save_checkpoint(teacher.model, teacher.processor, arguments.out)
    made = {
        "seed": arguments.seed,
        "see_steps": arguments.see_steps,
        "speak_steps": arguments.speak_steps,
        "threads": arguments.threads,
        "held_out_accuracy": measured,
        "held_out_views": HELD_OUT,
    }
    (arguments.out / "grounding.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
