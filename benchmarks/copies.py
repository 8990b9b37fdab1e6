"""How many bits of the perceptual hash a copy costs, and how many lie between pictures that are no copies.

The figures behind ``prep.duplicates.near_distance`` (docs/decisions/0008): real views of the sample's two volumes, and
what happens to pictures on their way through other people's data sets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from medvl_jobs.prep.pixels import perceptual_hash
from medvl_jobs.samples.views import blocks, render
from medvl_jobs.samples.volumes import brain_mr, chest_ct

VIEWS_PER_BLOCK = 8
SIDES = (200, 513)
COPIED_OF = 3
"""One view of so many is copied."""
BITS = (0, 1, 2, 3, 4)


def views() -> Iterator[tuple[str, Image.Image]]:
    """Block and picture. Blocks of one volume are 3 mm or more apart."""
    rng = np.random.default_rng(3)
    for volume in (chest_ct(), brain_mr()):
        for block in blocks(volume):
            for _ in range(VIEWS_PER_BLOCK):
                yield block.group, Image.fromarray(render(block, rng, pixels=int(rng.integers(*SIDES))).pixels_HW)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Through JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def copies(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """What was done, and what came of it."""
    for quality in (50, 75, 90):
        yield f"JPEG, quality {quality}", compressed(image, quality)
    for factor in (0.5, 0.75, 1.5):
        size = (int(image.width * factor), int(image.height * factor))
        yield f"scaled by {factor}", image.resize(size, Image.Resampling.BICUBIC)
    yield "224 x 224, quality 80", compressed(image.resize((224, 224)), 80)


def main() -> None:
    """Print two tables: pairs of different blocks, and copies."""
    groups, images = zip(*views(), strict=True)
    hashes = np.array([perceptual_hash(np.asarray(image)) for image in images], np.uint64)
    bits_NN = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    others_NN = np.triu(np.array(groups)[:, None] != np.array(groups)[None, :])
    print(f"{len(images)} views; pairs of different blocks: {int(others_NN.sum()):,}")
    print("  within bits: " + ", ".join(f"{bits}: {int((bits_NN[others_NN] <= bits).sum())}" for bits in BITS))
    found: dict[str, list[int]] = {}
    for image, own in list(zip(images, hashes, strict=True))[::COPIED_OF]:
        for name, copy in copies(image):
            found.setdefault(name, []).append((int(own) ^ perceptual_hash(np.asarray(copy))).bit_count())
    for name, distances in found.items():
        shares = ", ".join(f"{bits}: {np.mean(np.array(distances) <= bits):.1%}" for bits in BITS)
        print(f"{name:<22} {len(distances)} copies; within bits: {shares}")


if __name__ == "__main__":
    main()
