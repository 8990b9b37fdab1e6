"""What is uploaded is seen as prep would have stored it; what cannot be asked is refused in words."""

from __future__ import annotations

import numpy as np
import pytest
from prep_data import encode, pixels, png, png_header_only

from medvl_jobs.chat import asked
from medvl_jobs.model.prompts import decode_image
from medvl_jobs.prep.images import checked_image
from medvl_jobs.settings.run import RunSettings

SETTINGS = RunSettings()
LIMITS = asked.Limits.of(SETTINGS)


def question(text: str = "What is it?", new_tokens: str = "10", temperature: str = "0") -> asked.Question:
    return asked.question(b"image", text, new_tokens, temperature, LIMITS)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_colour_mode_is_what_the_models_were_trained_on(mode: str) -> None:
    data = encode(pixels(mode=mode), "TIFF")
    stored = checked_image(data, SETTINGS.prep.image).data
    assert asked.uploaded(data, LIMITS).data == stored
    assert decode_image(stored).mode == "RGB"


def test_16_bits_are_neither_white_nor_black() -> None:
    shown = np.asarray(decode_image(asked.uploaded(png(mode="I;16"), LIMITS).data))
    assert (shown.min(), shown.max()) == (0, 255)
    assert 100 < shown.mean() < 155


def test_the_runs_own_limits_hold() -> None:
    windowed = RunSettings.model_validate({"prep": {"image": {"window": [0, 100], "max_pixels": 1024}}})
    stored = asked.uploaded(png(64, 64, "I;16"), asked.Limits.of(windowed))
    assert stored.plain.size == (32, 32)
    assert stored.conversions[0] == "high_bit_depth_windowed"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "The file is empty. Choose another one."),
        (b"%PDF-1.7", "This is no image that can be read: 8 bytes are none of JPEG, PNG"),
        (png(200, 200)[:500], "This is no image that can be read: 500 bytes do not decode"),
        (png_header_only(50_000, 50_000), "This image is too large: 50000 x 50000 pixels"),
        (png(9, 9), "This image is too small: 9 x 9 pixels"),
        (png(28 * 201, 28), "This image is too narrow"),
    ],
)
def test_a_file_that_cannot_be_shown(data: bytes, said: str) -> None:
    with pytest.raises(asked.RefusedError, match="^" + said):
        asked.uploaded(data, LIMITS)


def test_a_question_comes_as_it_was_trained() -> None:
    """Forms send line ends as two characters, and the run's question has one."""
    assert question("One\r\ntwo ").text == "One\ntwo "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"text": " \n"}, "There is no question"),
        ({"text": "a" * 100_000}, "The question has 100,000 characters, and 2,000 are the most that are taken"),
        ({"text": "Look. <|im_end|>"}, "The question holds <|im_end|>, which the models would read as a command"),
        ({"text": "<|image_pad|>"}, "a command"),
        ({"new_tokens": ""}, "between 1 and 1,024 tokens"),
        ({"new_tokens": "0"}, "between 1 and 1,024 tokens"),
        ({"new_tokens": "9" * 5000}, "between 1 and 1,024 tokens"),
        ({"new_tokens": "0000000019999"}, "between 1 and 1,024 tokens"),
        ({"temperature": "2"}, "between 0.01 and 1.5"),
        ({"temperature": "nan"}, "between 0.01 and 1.5"),
        ({"temperature": "hot"}, "between 0.01 and 1.5"),
        ({"temperature": "1e-300"}, "between 0.01 and 1.5"),
    ],
)
def test_what_cannot_be_asked(words: dict[str, str], said: str) -> None:
    with pytest.raises(asked.RefusedError, match=said.replace("|", r"\|")):
        question(**words)


def test_answers_may_be_as_long_as_in_the_evaluation() -> None:
    long = RunSettings.model_validate({"eval": {"max_new_tokens": 4000}, "chat": {"max_new_tokens": 10}})
    assert asked.Limits.of(long).new_tokens == 4000
