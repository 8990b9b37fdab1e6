"""A store in an S3 bucket: Amazon's, or any server that speaks the same protocol. The only import of boto3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import boto3.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.config import Config
from s3transfer import exceptions as transfer

from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import ObjectStat, refuse_above
from medvl_jobs.storage.files import atomic_path, os_errors
from medvl_jobs.storage.keys import checked_key, checked_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 6
"""Tries of one request. Trap: botocore 1.44 begins with waits of 50 ms, so all six can end within two seconds. That
bridges a hiccup, not a restart of the server; for that the job ends with exit code 75 and is started again."""
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60
_CONFLICT_DELAYS_SECONDS = (0.2, 0.4, 0.8, 1.6)
_MIB = 1 << 20
_TRANSFER = TransferConfig(multipart_threshold=16 * _MIB, multipart_chunksize=16 * _MIB, max_concurrency=8)
"""Parts of 16 MiB, eight at a time: 128 MiB of memory at most, however large the file."""

_HTTP_FORBIDDEN, _HTTP_NOT_FOUND, _HTTP_CONFLICT, _HTTP_PRECONDITION_FAILED = 403, 404, 409, 412


class S3Storage:
    """Objects are S3 objects under ``prefix`` (may be empty) of ``bucket``. Safe to share between threads."""

    def __init__(self, bucket: str, prefix: str, settings: StorageSettings) -> None:
        """Makes no request. Raises `SettingsError` for an endpoint or bundle that cannot be, `AccessDeniedError`."""
        self._bucket = bucket
        self._prefix = checked_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._endpoint = settings.endpoint_url or "Amazon S3"
        self._bucket_exists = False
        with self._errors(""):
            self._client = _client(settings)

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read_bytes(self, key: str, *, limit: int | None = None) -> bytes:
        """See `Storage.read_bytes`."""
        with self._errors(key):
            found = self._client.get_object(Bucket=self._bucket, Key=self._full(key))
            if limit is not None:
                refuse_above(limit, found["ContentLength"], self._where(key))
            return found["Body"].read()

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See `Storage.write_bytes`.

        Trap: when the answer to a conditional write is lost on the way, the retry finds the object that the first try
        made, and the answer is ``False`` although the bytes are ours. Never two ``True``; rarely none.
        """
        with self._errors(key):
            if if_absent:
                return self._write_if_absent(self._full(key), data)
            self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=data)
            return True

    def _write_if_absent(self, full_key: str, data: bytes) -> bool:
        delays_seconds = iter(_CONFLICT_DELAYS_SECONDS)
        while True:
            try:
                self._client.put_object(Bucket=self._bucket, Key=full_key, Body=data, IfNoneMatch="*")
                return True
            except boto.ClientError as error:
                if _status(error) == _HTTP_PRECONDITION_FAILED:
                    return False
                # 409: another writer is at this key right now. S3 asks to try again; botocore does not by itself.
                delay_seconds = next(delays_seconds, None) if _status(error) == _HTTP_CONFLICT else None
                if delay_seconds is None:
                    raise
                time.sleep(delay_seconds)

    def download(self, key: str, path: Path) -> None:
        """See `Storage.download`. Parts are fetched in parallel."""
        with os_errors(path), self._errors(key), atomic_path(path) as temporary, temporary.open("wb") as stream:
            self._client.download_fileobj(self._bucket, self._full(key), stream, Config=_TRANSFER)

    def upload(self, path: Path, key: str) -> None:
        """See `Storage.upload`. Parts are sent in parallel; S3 shows the object when the last one has arrived."""
        # An open file, not its name: for a name boto3 wraps every error into a sentence without a code.
        with os_errors(path), self._errors(key), path.open("rb") as stream:
            self._client.upload_fileobj(stream, self._bucket, self._full(key), Config=_TRANSFER)

    def stat(self, key: str) -> ObjectStat | None:
        """See `Storage.stat`. Raises `MissingInputError` when the bucket itself does not exist."""
        with self._errors(key):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._full(key))
            except boto.ClientError as error:
                if _status(error) != _HTTP_NOT_FOUND:
                    raise
                self._require_bucket()
                return None
        return ObjectStat(head["ContentLength"], _fingerprint(head["ETag"]))

    def exists(self, key: str) -> bool:
        """See `Storage.exists`. Raises `MissingInputError` when the bucket itself does not exist."""
        return self.stat(key) is not None

    def list_keys(self, prefix: str) -> Iterator[str]:
        """See `Storage.list_keys`. Raises `MissingInputError` when the bucket itself does not exist."""
        for key, _ in self.list_stats(prefix):
            yield key

    def list_stats(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        """See `Storage.list_stats`. Raises `MissingInputError` when the bucket itself does not exist."""
        full_prefix = self._prefix + checked_prefix(prefix)
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=full_prefix)
            found = {
                entry["Key"].removeprefix(self._prefix): ObjectStat(entry["Size"], _fingerprint(entry["ETag"]))
                for page in pages
                for entry in page.get("Contents", [])
            }
        # Amazon sorts by bytes; SeaweedFS folder by folder (``a/b`` before ``a-b``). The promise is plain string order.
        yield from sorted(
            ((key, stat) for key, stat in found.items() if key and not key.endswith("/")), key=lambda pair: pair[0]
        )

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with self._errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _require_bucket(self) -> None:
        """Raise ``ClientError`` when there is no bucket: an answer to HEAD has no body, so 404 alone cannot tell."""
        if self._bucket_exists:
            return
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except boto.ClientError as error:
            # Not allowed to ask for the bucket, though it was for the object: then there is one.
            if _status(error) != _HTTP_FORBIDDEN:
                raise
        self._bucket_exists = True

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn whatever boto3 raises in the block into a `MedvlError`."""
        try:
            yield
        except boto.ClientError as error:
            if _status(error) == _HTTP_NOT_FOUND and error.operation_name == "HeadObject":
                with self._errors(key):
                    self._require_bucket()
            raise translated(error, self._where(key), self._bucket, self._endpoint) from error
        except (boto.BotoCoreError, Boto3Error, transfer.RetriesExceededError, transfer.S3DownloadFailedError) as error:
            raise translated(error, self._where(key), self._bucket, self._endpoint) from error

    def _where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key} at {self._endpoint}"


def _fingerprint(etag: str) -> str:
    return "etag:" + etag.strip('"')


def _client(settings: StorageSettings) -> S3Client:
    if settings.ca_bundle is not None and not settings.ca_bundle.is_file():
        remedy = "set storage.ca_bundle to a PEM file, or leave it out"
        raise SettingsError("the certificate bundle does not exist", where=str(settings.ca_bundle), remedy=remedy)
    # Checksums beyond the signed sha256 travel in a form that many self-hosted servers of older date refuse.
    checksums: Literal["when_required", "when_supported"] = "when_supported"
    if settings.endpoint_url:
        checksums = "when_required"
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        max_pool_connections=16,
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    try:
        return boto3.session.Session().client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
            config=config,
        )
    except ValueError as error:  # botocore raises its own types for everything but a malformed URL
        remedy = "write storage.endpoint_url like http://host:9000"
        raise SettingsError(f"the endpoint cannot be used: {error}", remedy=remedy) from error


# --------------------------------------------------------------------------------------------------------------------
# Errors. Amazon and its imitators agree on the codes, less on the HTTP status; HEAD has a status and nothing else.

_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN if there is one), AWS_PROFILE, or a "
    "service account with a role, and let that identity read, write, delete and list bucket {bucket}"
)
_CLOCK = "set this machine's clock (NTP): requests are signed with the time, and the server's differs by minutes"
_BUCKET = "create bucket {bucket} at {endpoint}, or correct storage.uri and storage.endpoint_url"
_OBJECT = "run the stage that makes it, or check storage.uri"
_REGION = "set storage.region to the region of bucket {bucket}, and check storage.endpoint_url"
_NAME = "correct storage.uri: a bucket name has 3 to 63 lower-case letters, digits, dots and hyphens"
_CERTIFICATE = "set storage.ca_bundle to the PEM file of the authority that signed the certificate of {endpoint}"
_LATER = "start again; if it stays, check that {endpoint} is up and can be reached from here (storage.endpoint_url)"
_UNFORESEEN = "check storage.endpoint_url and storage.region; the server's own log says more"

_Meaning = tuple[type[MedvlError], str, str]
_DENIED: _Meaning = (AccessDeniedError, "S3 refuses these credentials", _CREDENTIALS)
_NO_CREDENTIALS: _Meaning = (AccessDeniedError, "no usable S3 credentials were found", _CREDENTIALS)
_NO_OBJECT: _Meaning = (MissingInputError, "no such object in the bucket", _OBJECT)
_NO_BUCKET: _Meaning = (MissingInputError, "no such bucket: {bucket}", _BUCKET)
_BUSY: _Meaning = (TryAgainError, "S3 did not do it this time", _LATER)
_UNREACHABLE: _Meaning = (TryAgainError, "S3 does not answer", _LATER)

_BY_CODE: dict[str, _Meaning] = {
    "NoSuchKey": _NO_OBJECT,
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": (SettingsError, "{bucket!r} cannot be the name of a bucket", _NAME),
    "403": (AccessDeniedError, "S3 refuses access without saying why", f"{_CREDENTIALS}; or, rarely, {_CLOCK}"),  # HEAD
    "RequestTimeTooSkewed": (AccessDeniedError, "the clocks of this machine and of the server differ", _CLOCK),
    "ExpiredToken": (AccessDeniedError, "the S3 session token has expired", _CREDENTIALS),
    "PermanentRedirect": (SettingsError, "the bucket lies in another region", _REGION),
    "AuthorizationHeaderMalformed": (SettingsError, "the bucket lies in another region", _REGION),
    "SlowDown": _BUSY,
    "RequestTimeout": _BUSY,
}
_BY_STATUS: dict[int, _Meaning] = {
    301: (SettingsError, "the bucket lies in another region", _REGION),
    401: _DENIED,
    403: _DENIED,
    404: _NO_OBJECT,
    408: _BUSY,
    409: _BUSY,
    429: _BUSY,
}
_BY_TYPE: tuple[tuple[tuple[type[Exception], ...], _Meaning], ...] = (
    (
        (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.SSOError,
            boto.ProfileNotFound,
        ),
        _NO_CREDENTIALS,
    ),
    ((boto.ParamValidationError, boto.InvalidDNSNameError), (SettingsError, "S3 cannot be asked for this", _NAME)),
    (
        (boto.NoRegionError, boto.InvalidRegionError, boto.EndpointProviderError),
        (SettingsError, "the region or endpoint cannot be used", _REGION),
    ),
    # Whatever the network does: refused, reset, timed out, cut off while reading, a download that changed under way.
    (
        (
            boto.ConnectionError,
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
            transfer.RetriesExceededError,
            transfer.S3DownloadFailedError,
        ),
        _UNREACHABLE,
    ),
)


def translated(error: Exception, where: str, bucket: str, endpoint: str) -> MedvlError:
    """The `MedvlError` for what boto3 raised when it was asked for ``where``."""
    kind, what, remedy = _meaning(error)
    named = {"bucket": bucket, "endpoint": endpoint}
    return kind(f"{what.format(**named)} ({error})", where=where, remedy=remedy.format(**named))


def _meaning(error: Exception) -> _Meaning:
    if isinstance(error, boto.ClientError):
        code, status = error.response["Error"].get("Code", ""), _status(error)
        if status == _HTTP_NOT_FOUND and error.operation_name == "HeadBucket":
            return _NO_BUCKET
        if status >= 500:
            return _BUSY
        unforeseen: _Meaning = (MedvlError, "S3 refused the request", _UNFORESEEN)
        return _BY_CODE.get(code) or _BY_STATUS.get(status) or unforeseen
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return SettingsError, "the certificate of the S3 server is not trusted", _CERTIFICATE
    for types, meaning in _BY_TYPE:
        if isinstance(error, types):
            return meaning
    return MedvlError, "boto3 failed", _UNFORESEEN


def _status(error: boto.ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
