"""Stores: a local directory and S3 behind one small Protocol."""
