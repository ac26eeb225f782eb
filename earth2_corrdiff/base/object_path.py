# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Paths in object stores: URLs of S3, Google Cloud Storage and Azure, used like ``pathlib.Path``.

Everything goes through obstore, one library for all of them: Zarr and Earth2Studio write through it, and it
has the conditional put by which one process alone can make a store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.exceptions import BaseError as BaseError
from obstore.store import from_url

from earth2_corrdiff.base.errors import InputError, UnavailableError, first_line

if TYPE_CHECKING:
    from zarr.storage import ObjectStore

METADATA = ("zarr.json", ".zmetadata", ".zgroup")
SCHEMES = ("s3", "gs", "az", "https", "http")
ALIASES = {
    "anon": "skip_signature",
    "key": "access_key_id",
    "secret": "secret_access_key",
    "endpoint": "endpoint_url",
}
"""Names of fsspec's storage options, and obstore's."""
FSSPEC = ("key", "secret", "token", "endpoint_url", "profile")
PROFILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""Variables of the environment with credentials."""
PATIENCE = {"max_retries": 8, "retry_timeout": timedelta(minutes=2)}
"""Of a run, for fields."""
IMPATIENCE = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
"""Of a question, before anything is computed."""
FRESH = timedelta(minutes=5)
"""After which credentials of a profile are asked for again."""
AT_ONCE = 32
"""Objects that are put or copied at the same time."""
_OPTIONS: ContextVar[Mapping[str, str]] = ContextVar("storage options", default={})  # noqa: B039 - never changed


@dataclass(frozen=True)
class ObjectPath:
    """A URL in an object store, and how to open it; objects below it are its files.

    Other processes can be sent it: it is opened where it is used.

    Attributes
    ----------
    url : str
        Like ``s3://BUCKET/PATH``, without a slash at its end
    options : tuple[tuple[str, str], ...]
        Storage options: obstore's, or fsspec's ``anon``, ``key``, ``secret``, ``endpoint_url``, ``profile``
    """

    url: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # keys, perhaps

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: object) -> ObjectPath:
        return replace(self, url=f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._pure.name

    @property
    def suffixes(self) -> list[str]:
        """The endings of the name."""
        return self._pure.suffixes

    def with_name(self, name: str) -> ObjectPath:
        """The path beside it with another name."""
        return replace(self, url=f"{self.url.removesuffix(self.name)}{name}")

    def expanduser(self) -> ObjectPath:
        """Itself, as it is absolute."""
        return self

    absolute = expanduser

    def zarr(self, read_only: bool = False) -> ObjectStore[Any]:
        """The store of Zarr at this path."""
        from zarr.storage import ObjectStore

        return ObjectStore(opened(f"{self._root}/{quote(self._key)}", self.options), read_only=read_only)

    def is_file(self) -> bool:
        """True if there is an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """True if there are objects below."""
        return next(self.entries(), None) is not None

    def exists(self) -> bool:
        """True if there is an object, or one below; InputError if there is no such bucket, or no access."""
        if self._http:  # a folder is known by the metadata of a Zarr
            return any(map(ObjectPath.is_file, (self / name for name in METADATA))) or self.is_file()
        return self.is_dir() or self.is_file()

    def stat(self) -> Any:
        """``size``, ``last_modified`` and ``e_tag`` of an object; FileNotFoundError if there is none."""
        with asking(self):
            return obstore.head(self._bucket, self._key)

    def entries(self) -> Iterator[tuple[str, int, float]]:
        """Keys of all objects below, relative to this path, with their sizes and times."""
        if self._http:
            return
        start = f"{self._key}/" if self._key else ""
        with asking(self):
            for page in obstore.list(self._bucket, prefix=self._key or None):
                for found in page:
                    yield found["path"].removeprefix(start), found["size"], found["last_modified"].timestamp()

    def folders(self) -> list[str]:
        """Names of the folders below."""
        if self._http:
            return []
        with asking(self):
            found = obstore.list_with_delimiter(self._bucket, prefix=self._key or None)["common_prefixes"]
        return [PurePosixPath(path).name for path in found]

    def read_bytes(self, most: int | None = None) -> bytes:
        """An object, or its first bytes."""
        with asking(self):
            if most is None:
                return bytes(obstore.get(self._bucket, self._key).bytes())
            if self._http:
                pieces = obstore.get(self._bucket, self._key).stream(min_chunk_size=most)
                return bytes(next(iter(pieces), b""))[:most]
            size = obstore.head(self._bucket, self._key)["size"]
            if not size:
                return b""
            return bytes(obstore.get_range(self._bucket, self._key, start=0, end=min(most, size)))

    def read_text(self, encoding: str = "utf-8") -> str:
        """An object as text."""
        return self.read_bytes().decode(encoding)

    def create(self, data: bytes) -> bool:
        """Put an object where there is none, in one step; False if there is one."""
        try:
            with asking(self):
                obstore.put(self._bucket, self._key, data, mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, e_tag: str, data: bytes) -> bool:
        """Put an object in place of the one with a tag, in one step; False if it has changed."""
        try:
            obstore.put(self._bucket, self._key, data, mode={"e_tag": e_tag})
        except (PreconditionError, FileNotFoundError):
            return False
        return True

    def fill(self, files: Mapping[str, Path]) -> None:
        """Put local files below this path, where there are no objects yet."""
        self._all(lambda key: (self / key).create(files[key].read_bytes()), files)

    def write_bytes(self, data: bytes) -> None:
        """Put an object."""
        with asking(self):
            obstore.put(self._bucket, self._key, data)

    def download(self, file: Path) -> None:
        """Write an object into a local file, piece by piece."""
        with asking(self), file.open("wb") as out:
            for piece in obstore.get(self._opened(True), self._key).stream():
                out.write(bytes(piece))

    def copy(self, keys: Iterable[str], other: ObjectPath) -> None:
        """Copy objects below this path to another one of the bucket, by the server."""
        store = self._opened(True)
        self._all(lambda key: obstore.copy(store, (self / key)._key, (other / key)._key), keys)

    def _all(self, do: Callable[[str], object], keys: Iterable[str]) -> None:
        with asking(self), ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(do, keys):
                pass

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects below this path."""
        names = [(self / key)._key for key in keys]
        with asking(self), suppress(FileNotFoundError):
            obstore.delete(self._bucket, names)

    @property
    def _http(self) -> bool:
        """True for a server that lists nothing, and may have no ranges."""
        return self.url.startswith("http")

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self._key)

    @property
    def _key(self) -> str:
        """Name in the bucket."""
        return self.url.removeprefix(self._root).strip("/")

    @property
    def _root(self) -> str:
        """URL of the bucket."""
        return "/".join(self.url.split("/")[:3])

    @property
    def _bucket(self) -> Any:
        return self._opened(False)

    def _opened(self, patient: bool) -> Any:
        return opened(self._root, self.options, patient)


AnyPath = Path | ObjectPath


@contextmanager
def storage_options(options: Mapping[str, str]) -> Iterator[None]:
    """In this block URLs are opened with these options, by default with the environment's alone."""
    before = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(before)


def as_path(given: object) -> AnyPath:
    """The local path, or the path in an object store, that a text or a URL names.

    Parameters
    ----------
    given : str, Path or ObjectPath
        A path, ``file:///PATH``, ``s3://BUCKET/PATH``, ``gs://BUCKET/PATH``, ``az://CONTAINER/PATH``, or of
        files to read ``https://HOST/PATH``

    Raises
    ------
    InputError
        If it is another kind of URL
    """
    if isinstance(given, Path | ObjectPath):
        return given
    text = str(given)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text)
    if scheme == "file" and rest.startswith("/"):
        return Path(unquote(rest))
    if scheme not in SCHEMES or not rest.strip("/"):
        raise InputError(f"{text} is not a valid URL; use s3://BUCKET/PATH, gs://…, az://… or file:///PATH")
    return ObjectPath(text.rstrip("/"), tuple(sorted(_OPTIONS.get().items())))


@lru_cache(64)
def opened(url: str, options: tuple[tuple[str, str], ...], patient: bool = True) -> Any:
    """Obstore's store of a URL.

    Raises
    ------
    InputError
        If its storage options are not valid
    """
    config = {ALIASES.get(name, name): value for name, value in options}
    client: dict[str, Any] = {"timeout": timedelta(minutes=5)}
    how: dict[str, Any] = {}
    if url.startswith("s3:"):
        how = _profile(config.pop("profile", None), config)
        for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if endpoint := os.getenv(variable):
                config.setdefault("endpoint_url", endpoint)
    if url.startswith("http:") or config.get("endpoint_url", "").startswith("http:"):
        client["allow_http"] = True
    with asking(url):
        retry: Any = PATIENCE if patient else IMPATIENCE
        return from_url(url, client_options=client, retry_config=retry, **{**how, **config})  # type: ignore


def _profile(name: str | None, config: Mapping[str, str]) -> dict[str, Any]:
    """Region and credentials of a profile of AWS, which are refreshed; empty if the keys are given."""
    files = (Path(os.getenv(name, file)).expanduser() for name, file in PROFILES.items())
    given = {"access_key_id", "skip_signature"} & set(config) or os.getenv("AWS_ACCESS_KEY_ID")
    if name is None and (given or not (os.getenv("AWS_PROFILE") or any(file.exists() for file in files))):
        return {}
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=name)
    try:
        found, region = session.get_credentials(), session.get_config_variable("region")
    except BotoCoreError as error:
        raise InputError(f"the profile of AWS cannot be used: {first_line(error)}") from error

    def credentials() -> dict[str, Any]:
        now = found.get_frozen_credentials()
        until = datetime.now(UTC) + FRESH
        keys = {"access_key_id": now.access_key, "secret_access_key": now.secret_key, "token": now.token}
        return {**keys, "expires_at": until}

    how: dict[str, Any] = {} if found is None else {"credential_provider": credentials}
    return how | ({"region": region} if region and "region" not in config else {})


def s3_files() -> Any:
    """S3 as a file system of fsspec, with the user's credentials where there are any."""
    from botocore.session import Session
    from s3fs import S3FileSystem

    given = _OPTIONS.get()
    how: dict[str, Any] = {name: given[name] for name in FSSPEC if name in given}
    own = "key" in given or Session(profile=given.get("profile")).get_credentials() is not None
    return S3FileSystem(anon=given.get("anon") == "true" or not own, **how)


@contextmanager
def asking(path: object) -> Iterator[None]:
    """Turn obstore's errors into an InputError of one sentence, or Python's own if (no) object is there."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        text = str(error)
        if isinstance(error, AlreadyExistsError):
            raise FileExistsError(str(path)) from error
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
            raise FileNotFoundError(2, "there is no such object", str(path)) from error
        raise refusal(path, error) from error


def check_reached(error: Exception, path: object = "the object store") -> None:
    """Raise InputError if an error comes from an object store that could not be asked: nothing is damaged."""
    if isinstance(error, BaseError):
        raise refusal(path, error) from error


def refusal(path: object, error: Exception) -> InputError:
    """An error of obstore in one sentence."""
    text = f"{type(error).__name__} {error}".replace(str(path), "")
    keys = KEYS.get(str(path).partition(":")[0], "the credentials")
    found = (words.format(keys=keys) for pattern, words in REASONS.items() if re.search(pattern, text))
    why = next(found, first_line(error, 200).rpartition(" - ")[2].rstrip(".:"))
    return (UnavailableError if why in PASSING else InputError)(f"cannot use {path}: {why}")


PASSING = ("no connection to the server", "the server is overloaded or down; try again later")
REASONS = {
    r"NoSuchBucket|ContainerNotFound|bucket does not exist": "there is no such bucket; make it first",
    r"InvalidBucketName": "that is not a valid name of a bucket",
    r"169\.254\.169\.254|metadata\.google": (
        "there are no credentials; set {keys}, or use --storage-options anon=true"
    ),
    r"PermissionDenied|Unauthenticated|AccessDenied|Forbidden|SignatureDoesNotMatch|InvalidAccessKeyId": (
        "permission denied; check {keys}, which must be allowed to list, read and write"
    ),
    r"redirect without LOCATION|AuthorizationHeaderMalformed": (
        "the bucket is in another region; set AWS_REGION to it"
    ),
    r"Account must be specified": "the account is missing; set {keys}",
    r"status code: (429|5\d\d)": PASSING[1],
    r"sending request|dns error|timed out": PASSING[0],
}
"""What the text of an error means."""
