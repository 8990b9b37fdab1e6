"""How long the claims of as many captions as the tutorial validates take to read, on one core."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from statistics import median

from medvl_jobs.eval.reading import read

CAPTIONS = 3232
ROUNDS = 3
CAPTION = (
    "The image is an axial contrast-enhanced computed tomography (CT) slice of the chest in a lung window, showing the "
    "right lung, the left lung, the heart and the spine. The region of interest, located in the upper-left of the "
    "image, is the right lung and occupies approximately {share}% of the image area; it may be pneumonia. No nodule is "
    "marked in this image."
)
"""Of about the length of MedTrinity's; each one another text, as nothing is cached."""


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    options = parser.parse_args(words)
    captions = [CAPTION.format(share=1 + number / 100) for number in range(options.captions)]
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        claims = sum(len(read(caption).stated) for caption in captions)
        taken.append(time.perf_counter() - start)
    characters = round(sum(map(len, captions)) / len(captions))
    found = {"captions": len(captions), "characters": characters, "claims": claims, "seconds": round(median(taken), 2)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
