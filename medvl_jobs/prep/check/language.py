"""The language of a caption, told offline by the model inside py3langid (naive Bayes over byte n-grams, 5 MB).

As it comes it tells 139 languages, and takes short medical English for Romanian, Slovene or Latin: half of the words
are. Three things cure that, measured on the sample's captions and sentences, 40 English titles such as "Invasive ductal
carcinoma", and 50 captions in 15 other languages: 30 candidates, without Latin; no answer when it is not sure; no
answer for a few letters. Then no English text is taken for another language, and nine of ten others are recognised.
"""

from __future__ import annotations

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.captions import UNKNOWN_LANGUAGE

CANDIDATES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl",
    "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""What captions are written in; a language with few texts only takes them from its neighbours."""
SURE = 0.6
"""The share of the probability that a language must have."""
LETTER_BYTES = 20
"""Letters to tell by, at least, in bytes of UTF-8: 20 of the Latin alphabet, 7 of Chinese."""


class Languages:
    """Tells languages; made once, for the model takes a second to load."""

    def __init__(self, expected: str) -> None:
        """``expected`` is among the candidates in any case. Raises `SettingsError` when the model does not know it."""
        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)
        try:
            self._model.set_languages(sorted({*CANDIDATES, expected}))
        except ValueError as error:
            what = f"nothing here can tell the language '{expected}'"
            remedy = f"set prep.language to one of {', '.join(sorted(c for c in self._model.labels if len(c) == 2))}"
            raise SettingsError(what, where=f"prep.language={expected}", remedy=remedy) from error

    def of(self, caption: str) -> str:
        """Its ISO 639-1 code, or `UNKNOWN_LANGUAGE`."""
        letters = sum(len(letter.encode()) for letter in caption if letter.isalpha())
        if letters < LETTER_BYTES:
            return UNKNOWN_LANGUAGE
        code, _ = self._model.classify(caption)
        return UNKNOWN_LANGUAGE if code == "und" else str(code)
