"""samples: real medical images with true captions, and the tiny model of the demo."""
