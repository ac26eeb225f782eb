# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""For the tests of object stores: moto's server of S3 on the loopback, with a bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from moto.server import ThreadedMotoServer

from earth2_corrdiff.base.object_path import ObjectPath, as_path

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3() -> Iterator[ObjectPath]:
    """A bucket of its own, to which the variables of the environment lead."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
            patch.delenv(name, raising=False)
        requests.put(f"{endpoint}/runs-{port}", timeout=10).raise_for_status()
        found = as_path(f"s3://runs-{port}")
        assert isinstance(found, ObjectPath)
        yield found
    server.stop()


def objects(path: ObjectPath) -> dict[str, bytes]:
    """Every object below a URL, and its bytes."""
    return {key: (path / key).read_bytes() for key, *_ in path.entries()}


def put(path: ObjectPath, file: Path) -> ObjectPath:
    """Put a file, or all of a folder, at a URL."""
    for each in [file] if file.is_file() else (each for each in file.rglob("*") if each.is_file()):
        at = path if each == file else path / each.relative_to(file).as_posix()
        at.write_bytes(each.read_bytes())
    return path
