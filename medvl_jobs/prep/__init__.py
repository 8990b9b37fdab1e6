"""prep: image-caption data of any quality in, a validated dataset with a split that does not leak out."""
