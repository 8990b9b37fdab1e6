"""What was sent, checked: an image that the models can be shown, and a question that they can be asked."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from medvl_jobs.chat.models import Question
from medvl_jobs.model.images import ImageRefusedError, StoredImage, stored_image
from medvl_jobs.settings.prep import ImageSettings
from medvl_jobs.settings.run import RunSettings

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.5
"""Of sampling. Far below, scores divided by it are no numbers, of which a GPU does not recover; 0 is greedy."""
_MOST_DIGITS = 9
_COMMAND = re.compile(r"<\|[^|<>\s]{1,40}\|>")
"""``<|im_end|>``, ``<|image_pad|>``: the tokenizer would take it for a change of speaker, or for an image."""
_DECODING = threading.Lock()
"""Pillow's limits are state of the whole process, and one image of 50 million pixels is enough at a time."""
_WORDS = {
    "undecodable_image": "This is no image that can be read",
    "image_too_large": "This image is too large",
    "image_too_small": "This image is too small",
    "extreme_aspect": "This image is too narrow",
}


class RefusedError(Exception):
    """The request cannot be met; the text says why and what to do, to whoever asked."""


@dataclass(frozen=True)
class Limits:
    """What may be asked."""

    question_chars: int
    new_tokens: int
    images: ImageSettings

    @classmethod
    def of(cls, settings: RunSettings) -> Limits:
        """The run's: images as in its training, answers as long as in its eval at least."""
        new_tokens = max(settings.chat.max_new_tokens, settings.eval.max_new_tokens)
        return cls(settings.chat.max_question_chars, new_tokens, settings.prep.image)


def uploaded(data: bytes, limits: Limits) -> StoredImage:
    """The image as prep would have stored it. Raises `RefusedError`. Decoding takes a while: not for the event loop."""
    if not data:
        raise RefusedError("The file is empty. Choose another one.")
    with _DECODING:
        try:
            return stored_image(data, limits.images)
        except ImageRefusedError as error:
            raise RefusedError(f"{_WORDS[error.reason]}: {error.detail}.") from error
        except MemoryError as error:
            raise RefusedError("There is not enough memory to decode this image. Make it smaller.") from error


def question(image: bytes, text: str, new_tokens: str, temperature: str, limits: Limits) -> Question:
    """From the words of a form. ``image``: in its stored form. Raises `RefusedError`."""
    text = text.replace("\r\n", "\n")  # forms send line ends so, and the run's own question has none
    if not text.strip():
        raise RefusedError("There is no question. Write one, and ask again.")
    if len(text) > limits.question_chars:
        raise RefusedError(
            f"The question has {len(text):,} characters, and {limits.question_chars:,} are the most that are taken. "
            "Shorten it, and ask again."
        )
    if found := _COMMAND.search(text):
        raise RefusedError(f"The question holds {found[0]}, which the models would read as a command. Take it out.")
    if not 1 <= (most := number(new_tokens) or 0) <= limits.new_tokens:
        raise RefusedError(f"The longest answer must have between 1 and {limits.new_tokens:,} tokens.")
    try:
        degree = float(temperature)
    except ValueError:
        degree = -1.0
    if degree != 0 and not MIN_TEMPERATURE <= degree <= MAX_TEMPERATURE:
        raise RefusedError(f"The temperature must be 0, or lie between {MIN_TEMPERATURE} and {MAX_TEMPERATURE}.")
    return Question(image, text, most, degree)


def number(word: str) -> int | None:
    """A count, as a form or an address has it; none for what is no such number, or a very long one."""
    return int(word) if word.isdecimal() and len(word) <= _MOST_DIGITS else None
