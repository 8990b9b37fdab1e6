"""Train and eval must go on saying exactly the same to the model; these tokens pin what they say."""

from __future__ import annotations

import tiny_model

from medvl_jobs.model.checkpoint import load_processor
from medvl_jobs.model.prompts import IGNORE, PromptRenderer
from medvl_jobs.settings.model import PromptSettings

QUESTION = PromptSettings().question


def test_prompt_text_is_qwen3_vls() -> None:
    renderer = tiny_model.renderer()
    assert renderer.prompt_text == (
        f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert renderer.render("Why?", "Be brief.").startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_answer_tokens_join_as_the_template_joins_them() -> None:
    """Prompt and answer are tokenised apart; together they must be what the whole conversation would be."""
    renderer = tiny_model.renderer()
    for caption in (*tiny_model.CAPTIONS, " leading space", "-5 HU", "\nnewline", "左肺"):
        conversation = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": caption.strip()},
        ]
        whole = renderer.processor.apply_chat_template(conversation, tokenize=False)
        expected = renderer.processor(text=[whole], images=[tiny_model.picture(0)], return_tensors="pt")["input_ids"][0]
        assert renderer.encode(tiny_model.picture(0), caption).input_ids_L.tolist() == expected.tolist()


def test_an_answers_prefix_is_learnt_and_joins_as_the_template_joins_it() -> None:
    prompt = PromptSettings(answer_prefix="<think>\n\n</think>\n\n")
    renderer = PromptRenderer(load_processor(tiny_model.MODEL), prompt)
    for caption in tiny_model.CAPTIONS:
        example = renderer.encode(tiny_model.picture(0), caption)
        labelled = example.labels_L[example.labels_L != IGNORE]
        assert renderer.tokenizer.decode(labelled) == f"<think>\n\n</think>\n\n{caption}<|im_end|>\n"
        whole = renderer.prompt_text + prompt.answer_prefix + caption + "<|im_end|>\n"
        expected = renderer.processor(text=[whole], images=[tiny_model.picture(0)], return_tensors="pt")["input_ids"][0]
        assert example.input_ids_L.tolist() == expected.tolist()
        assert renderer.count_tokens(192, 192, caption) == len(example)


def test_token_ids() -> None:
    """Special tokens by name, so that a rebuilt tiny tokenizer does not change this test; the words by their text."""
    renderer = tiny_model.renderer()
    example = renderer.encode(tiny_model.picture(0), "A short one.")
    tokens = renderer.tokenizer.convert_ids_to_tokens(example.input_ids_L.tolist())
    image = [n for n, token in enumerate(tokens) if token == "<|image_pad|>"]
    assert tokens[0] == "<|im_start|>"
    assert tokens[image[0] - 1] == "<|vision_start|>"
    assert tokens[image[-1] + 1] == "<|vision_end|>"
    assert image == list(range(image[0], image[0] + 36))
    assert example.mm_token_type_ids_L.nonzero().flatten().tolist() == image
    assert renderer.tokenizer.decode(example.input_ids_L[image[-1] + 2 :]) == (
        f"{QUESTION}<|im_end|>\n<|im_start|>assistant\nA short one.<|im_end|>\n"
    )


def test_tokens_are_counted_without_decoding() -> None:
    renderer = tiny_model.renderer()
    for width, height in ((192, 192), (256, 128), (640, 480), (31, 500)):
        encoded = renderer.encode(tiny_model.picture(0, width, height), "A short one.")
        assert renderer.count_tokens(width, height, "A short one.") == len(encoded)


def test_special_tokens_are_qwen3_vls() -> None:
    tokenizer = tiny_model.renderer().tokenizer
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    assert ids == list(range(ids[0], ids[0] + 3))
    assert tokenizer.decode(tokenizer("<think></think>")["input_ids"], skip_special_tokens=True) == "<think></think>"
