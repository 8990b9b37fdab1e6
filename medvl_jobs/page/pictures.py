"""Pictures inside a page: small, and without anything in them but pixels."""

from __future__ import annotations

import base64
import io

from PIL import Image

WEBP_QUALITY = 82
"""Of 100; grey anatomy shows no blocks from about 75 on."""
THUMBNAIL_BUDGET_BYTES = 2_000_000
"""All thumbnails of a page together, encoded in base64: it stays under 3 MB whatever the settings ask for."""


def thumbnail(encoded: bytes, pixels: int) -> str:
    """The image as WebP, its longer side at most ``pixels``, as a ``data:`` address. Raises what Pillow raises."""
    with Image.open(io.BytesIO(encoded)) as image:
        small = image if image.mode in ("L", "RGB") else image.convert("RGB")
        small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        # Without exif and colour profile: a patient's name has been found in such places.
        small.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6, exif=b"", icc_profile=b"")
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
