"""What the pages of medvl have in common: the look, the figures' strokes, thumbnails, and how numbers are said."""
