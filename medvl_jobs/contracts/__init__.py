"""The nouns that cross a stage boundary: rows, keys, manifests. No torch, no boto3, no settings."""
