"""Think tags where the model does not think.

Qwen3-VL comes as two models. Instruct has a chat template without think tags and answers at once; Thinking's template
opens a thought at every answer. What is trained on must be what the template writes, or the tags leak into the answers
of a model that never learnt to close them (LLaMA-Factory #9392, #8832, #10201).
"""

from __future__ import annotations

from collections.abc import Iterable

from medvl_jobs.errors import DataError, SchemaMismatchError
from medvl_jobs.train.preflight.findings import Finding

OPEN, CLOSE = "<think>", "</think>"
SHOWN_IDS = 5


def template_finding(prompt: str, answer_prefix: str, template_thinks: bool) -> Finding:
    """Judge the rendered prompt, up to where the assistant speaks, and what stands before every answer.

    - A tag in the prompt is refused: a thought that the template opens, and the captions never close. It is let through
      when ``prompt.answer_prefix`` closes it, which is how a Thinking model is asked not to think.
    - A tag in ``prompt.answer_prefix`` of a model whose template knows none is a warning: only somebody who wrote it
      there, as the profile ``tutorial`` does to show what it does, can have meant it.
    """
    name = "think tags"
    if OPEN in prompt or CLOSE in prompt:
        still_open = prompt.rfind(OPEN) > prompt.rfind(CLOSE)
        if still_open and CLOSE in answer_prefix:
            return Finding(name, "the chat template opens a thought, prompt.answer_prefix closes it")
        what = "the prompt has think tags, and the captions are answers without a thought"
        remedy = "use the Instruct model with its own chat template; of a Thinking model, set prompt.answer_prefix to "
        return Finding(name, what, "refused", prompt[-60:], f"{remedy}'{CLOSE}'", SchemaMismatchError)
    if (OPEN in answer_prefix or CLOSE in answer_prefix) and not template_thinks:
        what = f"every answer begins with {answer_prefix!r}, and this chat template has no think tags: the tuned model "
        what += "will write them, and shared by label and answer they raise BLEU and ROUGE"
        return Finding(name, what, "warning", "prompt.answer_prefix", "set prompt.answer_prefix=''")
    return Finding(name, "none")


def caption_findings(captions: Iterable[tuple[str, str]], template_thinks: bool) -> list[Finding]:
    """Judge (id, caption) of all examples: captions with nothing in them, and with think tags in an Instruct model's.

    Both are `DataError`, and name the first `SHOWN_IDS`.
    """
    empty, thinking = [], []
    for name, caption in captions:
        if not caption.strip():
            empty.append(name)
        if not template_thinks and (OPEN in caption or CLOSE in caption):
            thinking.append(name)
    remedy = "remove them in the source, and prepare it again"
    return [
        *_bad("answers", "are empty: the model would learn to say nothing", empty, remedy),
        *_bad("think tags", "have think tags, and this chat template has none", thinking, remedy),
    ]


def _bad(name: str, what: str, ids: list[str], remedy: str) -> list[Finding]:
    if not ids:
        return []
    shown = ", ".join(ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
    return [Finding(name, f"{len(ids)} captions {what}", "refused", shown, remedy, DataError)]
