"""Read and write files of an object storage that speaks S3: AWS's, or another one that `AWS_ENDPOINT_URL` names.

Credentials and region are found as by every client of AWS: in the environment, in ~/.aws, or from the machine's role.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asr_with_nemo.base.files import replacing
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEME = "s3://"
_REFUSED = ("403", "AccessDenied")


def is_remote(place: str | os.PathLike) -> bool:
    """Return whether a place is in an object storage."""
    return str(place).startswith(SCHEME)


def check_place(place: str | os.PathLike) -> None:
    """Make sure that a place is a folder or in an object storage, and no other URL, which would be made a folder.

    Raises:
        InputError: it is one.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(place))
    if scheme and not is_remote(place):
        what = (
            "give a folder as a path, without file://"
            if scheme[1] == "file"
            else f"expected a folder, or {SCHEME}BUCKET/FOLDER"
        )
        raise InputError(f"{place}: is a URL of {scheme[1]}; {what}; copy what is elsewhere to one of them")


def check_local(place: str | os.PathLike, why: str) -> None:
    """Make sure that a place isn't a URL, which would be made a folder.

    Args:
        place: also a `Path`, in which s3://BUCKET has become s3:/BUCKET.
        why: ends the message: why it has to be on this machine, and what to do.

    Raises:
        InputError: it is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise InputError(f"{re.sub(':/+', '://', str(place), count=1)}: is a URL, and {why}")


def files_in(folder: str) -> dict[str, int]:
    """Return the names and sizes in bytes of the objects whose keys begin with a folder's, without subfolders.

    Args:
        folder: `s3://BUCKET/FOLDER`.

    Raises:
        InputError: the storage can't be reached, or refuses.
    """
    _, key = _split(folder)
    return {one["Key"][len(_prefix(key)) :]: one["Size"] for one in _objects(folder, Delimiter="/")}


def files_below(folder: str) -> Iterator[str]:
    """Yield the URLs of the objects whose keys begin with a folder's, those of subfolders too, in order.

    Args:
        folder: `s3://BUCKET/FOLDER`.

    Raises:
        InputError: the storage can't be reached, or refuses.
    """
    bucket, _ = _split(folder)
    yield from (f"{SCHEME}{bucket}/{one['Key']}" for one in _objects(folder))


def filesystem(place: str | os.PathLike) -> "tuple[FileSystem, str]":
    """Return pyarrow's file system for a folder of this machine or an object storage, and the folder's path in it.

    Raises:
        InputError: the URL has no bucket, or is of another storage.
    """
    from pyarrow import fs

    check_place(place)
    if not is_remote(place):
        return fs.LocalFileSystem(), os.path.abspath(place)
    bucket, key = _split(str(place))
    found = {"endpoint_override": _endpoint(), "region": os.environ.get("AWS_DEFAULT_REGION")}
    system = fs.S3FileSystem(
        connect_timeout=10, retry_strategy=fs.AwsStandardS3RetryStrategy(3), **{k: v for k, v in found.items() if v}
    )
    return system, f"{bucket}/{key}".rstrip("/")


def download(url: str, path: Path) -> None:
    """Copy an object to a file.

    Raises:
        InputError: there is no such object, or the storage can't be reached, or refuses.
    """
    bucket, key = _split(url)
    with _explained(url), replacing(path) as partial:
        _client().download_file(bucket, key, str(partial))


def bucket_of(url: str) -> str:
    """Return the URL of an object's bucket."""
    return SCHEME + _split(url)[0]


def is_missing(error: InputError) -> bool:
    """Return whether an error of `download` says that there is no such object, rather than that it can't be had now."""
    return _code(error.__cause__) in ("404", "NoSuchKey")


def is_refused(error: InputError) -> bool:
    """Return whether an error of `download` says that the object may not be read: this one, or any any more.

    S3 also answers so for an object that isn't there, if the bucket may not be listed.
    """
    return _code(error.__cause__) in _REFUSED


def is_readable(url: str) -> bool:
    """Return whether an object is there and may be read now."""
    from botocore.exceptions import ClientError

    bucket, key = _split(url)
    with _explained(url), contextlib.suppress(ClientError):
        _client().get_object(Bucket=bucket, Key=key)["Body"].close()
        return True
    return False


def _code(error: BaseException | None) -> str | None:
    return (getattr(error, "response", None) or {}).get("Error", {}).get("Code")


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise InputError(f"{url}: expected {SCHEME}BUCKET/FOLDER")
    return bucket, key


def _prefix(key: str) -> str:
    """Return what the keys of a folder's objects begin with."""
    return f"{key.rstrip('/')}/" if key else ""


def _objects(folder: str, **options: str) -> Iterator[dict]:
    """Yield what the storage says of the objects whose keys begin with a folder's."""
    bucket, key = _split(folder)
    with _explained(folder):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=_prefix(key), **options)
        for page in pages:
            yield from page.get("Contents", ())


def _client():
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(connect_timeout=10, retries={"max_attempts": 3, "mode": "standard"}))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise explain(url, error) from error


def explain(url: str, error: Exception) -> InputError:
    """Return the error of a storage's client as one that says what to look at."""
    endpoint = _endpoint()
    where = f"AWS_ENDPOINT_URL={endpoint}" if endpoint else "AWS_ENDPOINT_URL isn't set, so AWS's own storage was asked"
    if _code(error) in _REFUSED:
        where += ". The object may also be missing: S3 answers the same if you may not list the bucket"
    return InputError(
        f"{url}: can't be used ({error}); look at the bucket's name, the credentials (AWS_ACCESS_KEY_ID, "
        f"AWS_SECRET_ACCESS_KEY or ~/.aws) and the network; {where}"
    )
