"""What only S3 can do wrong: each failure ends in the right error, and says what to do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, SSLError

from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.s3 import S3Storage, translated

Attempt = Callable[[Storage, Path], object]
EVERY_METHOD: list[Attempt] = [
    lambda storage, _: storage.read_bytes("key"),
    lambda storage, _: storage.write_bytes("key", b"x"),
    lambda storage, _: storage.write_bytes("key", b"x", if_absent=True),
    lambda storage, folder: storage.download("key", folder / "copy"),
    lambda storage, folder: storage.upload(folder / "source", "key"),
    lambda storage, _: storage.stat("key"),
    lambda storage, _: storage.exists("key"),
    lambda storage, _: list(storage.list_keys("")),
    lambda storage, _: storage.delete("key"),
]
METHOD_NAMES = ["read", "write", "write-if-absent", "download", "upload", "stat", "exists", "list", "delete"]
every_method = pytest.mark.parametrize("attempt", EVERY_METHOD, ids=METHOD_NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(b"x")
    return tmp_path


@every_method
def test_a_bucket_that_does_not_exist(s3_settings: StorageSettings, folder: Path, attempt: Attempt) -> None:
    storage = open_storage(s3_settings.model_copy(update={"uri": "s3://no-such-bucket/prefix"}))
    with pytest.raises(MissingInputError, match="no such bucket: no-such-bucket") as caught:
        attempt(storage, folder)
    for word in ("no-such-bucket", s3_settings.endpoint_url or "", "storage.uri"):
        assert word in caught.value.remedy


@every_method
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    s3_settings: StorageSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, attempt: Attempt, wrong: str
) -> None:
    monkeypatch.setenv(wrong, "wrong")
    with pytest.raises(AccessDeniedError) as caught:
        attempt(open_storage(s3_settings), folder)
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.remedy


def test_no_credentials(s3_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="no usable S3 credentials"):
        open_storage(s3_settings).read_bytes("key")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessDeniedError, match="nobody"):
        open_storage(s3_settings)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that is taken, so that nobody else can listen there, and refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_nobody_listens(s3_settings: StorageSettings, deaf_port: int) -> None:
    storage = open_storage(s3_settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{deaf_port}"}))
    start = time.monotonic()
    with pytest.raises(TryAgainError, match="does not answer") as caught:
        storage.exists("key")
    assert time.monotonic() - start < 60
    assert f"127.0.0.1:{deaf_port}" in caught.value.remedy


@pytest.mark.parametrize("update", [{"endpoint_url": "no url"}, {"ca_bundle": Path("/no/bundle.pem")}])
def test_settings_that_cannot_be(s3_settings: StorageSettings, update: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="remedy"):
        open_storage(s3_settings.model_copy(update=update))


def test_a_bucket_name_that_cannot_be(s3_settings: StorageSettings) -> None:
    storage = open_storage(s3_settings.model_copy(update={"uri": "s3://not a bucket/x"}))
    with pytest.raises(SettingsError, match="bucket name"):
        storage.read_bytes("key")


@pytest.mark.parametrize(
    ("code", "status", "expected", "words"),
    [
        ("NoSuchKey", 404, MissingInputError, "run the stage"),
        ("AccessDenied", 403, AccessDeniedError, "list bucket b"),
        ("RequestTimeTooSkewed", 403, AccessDeniedError, "clock"),
        ("ExpiredToken", 400, AccessDeniedError, "AWS_SESSION_TOKEN"),
        ("SlowDown", 503, TryAgainError, "start again"),
        ("InternalError", 500, TryAgainError, "start again"),
        ("ConditionalRequestConflict", 409, TryAgainError, "start again"),
        ("TooManyRequests", 429, TryAgainError, "start again"),
        ("PermanentRedirect", 301, SettingsError, "storage.region"),
        ("AuthorizationHeaderMalformed", 400, SettingsError, "storage.region"),
        ("InvalidBucketName", 400, SettingsError, "storage.uri"),
        ("NeverHeardOf", 400, MedvlError, "storage.endpoint_url"),
    ],
)
def test_what_a_server_may_answer(code: str, status: int, expected: type[MedvlError], words: str) -> None:
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translated(ClientError(answer, "GetObject"), "s3://b/k", "b", "http://e")  # type: ignore[arg-type]
    assert type(error) is expected
    assert words in error.remedy
    assert code in error.what


def test_a_certificate_that_is_not_trusted_is_not_worth_another_attempt() -> None:
    for reason, expected in (("CERTIFICATE_VERIFY_FAILED", SettingsError), ("UNEXPECTED_EOF", TryAgainError)):
        raised = SSLError(endpoint_url="https://e", error=OSError(f"[SSL: {reason}]"))
        error = translated(raised, "s3://b/k", "b", "https://e")
        assert type(error) is expected


def test_a_conflict_of_two_writers_is_tried_again(
    s3_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(s3_settings)
    assert isinstance(storage, S3Storage)
    client = storage._client
    put, calls = client.put_object, []

    def conflict_first(**arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            answer = {"Error": {"Code": "ConditionalRequestConflict"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
            raise ClientError(answer, "PutObject")  # type: ignore[arg-type]
        return put(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "put_object", conflict_first)
    assert storage.write_bytes("key", b"x", if_absent=True) is True
    assert len(calls) == 2
