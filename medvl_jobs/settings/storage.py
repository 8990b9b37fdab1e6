"""Where results are kept."""

from __future__ import annotations

from pathlib import Path

from medvl_jobs.settings.section import Section


class StorageSettings(Section):
    """The store. Credentials are no settings: they come from where boto3 looks (``AWS_*``, profile, identity)."""

    uri: str = "medvl-store"
    """``s3://bucket/prefix`` or a directory (relative to the working directory)."""
    endpoint_url: str | None = None
    """Address of an S3-compatible server; none means Amazon's own."""
    region: str | None = None
    path_style: bool = False
    """Whether the bucket stands in the path (``http://host/bucket``), as most self-hosted servers want it."""
    ca_bundle: Path | None = None
    """PEM file with the certificate authority of a self-hosted server."""
