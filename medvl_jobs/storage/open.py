"""From ``storage.uri`` to a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage

# One slash is enough: "s3:/bucket" is a slip of the pen, not a wish for a folder named "s3:".
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_REMEDY = "set storage.uri to s3://bucket/prefix or to a directory"


def open_storage(settings: StorageSettings) -> Storage:
    """The store that ``settings.uri`` names; nothing is read or made yet. Raises `SettingsError`."""
    uri = settings.uri
    scheme = _SCHEME.match(uri)
    if scheme is None:
        if not uri:
            raise SettingsError("storage.uri is empty", remedy=_REMEDY)
        return LocalStorage(Path(uri))
    match scheme[1].lower():
        case "s3":
            return _open_s3(settings)
        case "file":
            return _open_file(uri)
        case other:
            raise SettingsError(f"storage.uri has the unknown scheme {other!r}", where=uri, remedy=_REMEDY)


def _open_file(uri: str) -> Storage:
    url = urlsplit(uri)
    if url.netloc not in ("", "localhost") or not url.path:
        remedy = "write file:///absolute/directory"
        raise SettingsError("storage.uri names a host, or no path", where=uri, remedy=remedy)
    return LocalStorage(Path(unquote(url.path)))


def _open_s3(settings: StorageSettings) -> Storage:
    # boto3 takes a third of a second and 40 MB to import; a run on a local directory never pays for it.
    from medvl_jobs.storage.s3 import S3Storage  # noqa: PLC0415

    # No urlsplit here: "#" and "?" are letters like any others in an S3 key.
    bucket, _, prefix = settings.uri.partition("://")[2].partition("/")
    if not bucket:
        raise SettingsError("storage.uri names no bucket", where=settings.uri, remedy=_REMEDY)
    return S3Storage(bucket, prefix, settings)
