# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What clients send: npy files that are what they say, and all kinds that are not; tars as bytes."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy_format
from service_kit import npy, states
from tiny import make_spec

from earth2_corrdiff.base.times import to_times
from earth2_corrdiff.model.diffusion.noise import member_seed
from earth2_corrdiff.service import archives, decode
from earth2_corrdiff.service.decode import read_array
from earth2_corrdiff.service.errors import ServiceError
from earth2_corrdiff.service.settings import Settings

SPEC = make_spec()
X = states(2)
WANT = "(batch, 3, 6, 8)"


def read(data: bytes, most: int = 4) -> np.ndarray:
    return read_array(data, SPEC, most)


def fault(data: bytes, most: int = 4) -> str:
    with pytest.raises(ServiceError) as caught:
        read(data, most)
    error = caught.value
    assert error.status_code == 422 and error.field == "input_array" and len(error.detail) < 300
    assert error.detail.startswith("input_array must be ") and str(error.expected) in error.detail
    return error.detail


def header(shape: object, descr: object = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    """The header of a npy file that says anything."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b" \n"
    count = "<H" if version == (1, 0) else "<I"
    return npy_format.MAGIC_PREFIX + bytes(version) + struct.pack(count, len(text)) + text


# good


def test_four_and_five_axes() -> None:
    for array, batch in ((X, 2), (X[:1], 1), (X[None], 2), (X[:, None], 2), (X[:1, None], 1)):
        read_back = read(npy(array))
        assert read_back.shape == (batch, 3, 6, 8) and np.array_equal(read_back, X[:batch])
        assert read_back.dtype == np.float32 and read_back.flags.writeable and read_back.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8", ">f8"])
def test_other_floats_are_converted(dtype: str) -> None:
    array = (X / 1000).astype(dtype)
    assert np.array_equal(read(npy(array)), array.astype(np.float32))


def test_fortran_order_and_the_second_version() -> None:
    array = np.asfortranarray(X)
    assert b"'fortran_order': True" in npy(array) and np.array_equal(read(npy(array)), X)
    file = io.BytesIO()
    npy_format.write_array(file, X, version=(2, 0), allow_pickle=False)
    assert np.array_equal(read(file.getvalue()), X)


# bad


@pytest.mark.parametrize(
    "shape",
    [(), (3,), (3, 6, 8), (2, 3, 6), (2, 3, 8, 6), (2, 4, 6, 8), (2, 3, 6, 9), (1, 1, 2, 3, 6, 8)],
    ids=str,
)
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    text = fault(npy(np.zeros(shape, dtype=np.float32)))
    assert f"of shape {WANT} or (1, batch, 3, 6, 8), got the shape {shape}" in text


@pytest.mark.parametrize("shape", [(0, 3, 6, 8), (5, 3, 6, 8), (2, 3, 3, 6, 8), (1, 0, 3, 6, 8)], ids=str)
def test_too_many_cases_or_none(shape: tuple[int, ...]) -> None:
    assert "a batch of 1 to 4 cases" in fault(npy(np.zeros(shape, dtype=np.float32)))


@pytest.mark.parametrize("dtype", ["i4", "u1", "?", "c8", "S3", "U2", "M8[s]", "f16", [("a", "f4")]], ids=str)
def test_wrong_dtypes(dtype: Any) -> None:
    assert "float32" in fault(npy(np.zeros(X.shape, dtype=np.dtype(dtype))))


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    objects = np.empty((1, 3, 6, 8), dtype=object)
    objects[:] = Bomb(target)
    assert "got pickled objects" in fault(npy(objects, allow_pickle=True))
    assert "got another file" in fault(pickle.dumps(Bomb(target)))
    assert "got pickled objects" in fault(header((1, 3, 6, 8), [("a", "O")]) + bytes(9))
    assert not target.exists()
    np.load(io.BytesIO(npy(objects, allow_pickle=True)), allow_pickle=True)
    assert target.exists()  # what it would have done


def test_zip_files() -> None:
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, input_array=np.zeros((1000, 1000)))
        assert "got a zip file (a npz?)" in fault(file.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93",
        b"\x93NUMPY",
        npy(X)[:40],
        b"GIF89a",
        b"\x93NUMPY\x03\x00" + npy(X)[8:],
        header((1, 3, 6, 8), version=(9, 9)),
        header("(" * 9000),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        header((1, 3, 6, 8.0)),
        header([1, 3, 6, 8]),
        header((1, 3, 6, 8), "<f99"),
        header((1, 3, 6, 8), "__import__('os')"),
        b"\x93NUMPY\x01\x00\x10\x00" + b"{'a': 10**10**9}",
    ],
    ids=range(15),
)
def test_no_npy_at_all(data: bytes) -> None:
    assert "a npy file of plain numbers" in fault(data)


@pytest.mark.parametrize(
    "shape",
    [(-1, -1, 3, 6, 8), (-1, 3, 6, 8), (True, 3, 6, 8), (1, True, 3, 6, 8), (-1, -2, 3, 6, 8), (True,) * 5]
    + [(2.0, 3, 6, 8), (None, 3, 6, 8), ("2", 3, 6, 8), (1, 3, 6, -8), (-1,) * 64],
    ids=repr,
)
def test_shapes_that_are_none(shape: tuple[Any, ...]) -> None:
    """NumPy takes -1 as any length, and True as 1."""
    assert "a npy file of plain numbers" in fault(header(shape) + npy(X)[128:])
    assert "a npy file of plain numbers" in fault(header(shape) + npy(X)[128 : 128 + 576])


def test_a_header_that_claims_too_much_reserves_nothing() -> None:
    tracemalloc.start()
    for shape in ((10**9, 3, 6, 8), (10**30, 3, 6, 8), (-1, 3, 6, 8), (-(10**9), -(10**9), 3, 6, 8)):
        text = fault(header(shape) + bytes(576), most=2**62)
        assert "got the shape" in text or "a batch of" in text or "bytes after its header" in text
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("change", [-1152, -4, -1, 1, 4])
def test_truncated_and_longer_files(change: int) -> None:
    data = npy(X)[:change] if change < 0 else npy(X) + bytes(change)
    assert f"with 1152 bytes after its header, got {1152 + change}" in fault(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_none(value: float) -> None:
    array = X.copy()
    array[1, 2, 3, 4] = array[0, 0, 0, 0] = value
    assert fault(npy(array)).endswith("finite everywhere, got NaN or infinity in t2m, z500")


def test_what_float32_cannot_hold() -> None:
    assert "infinity in u10m" in fault(npy(np.full(X.shape, 1e39) * (np.arange(3) == 1)[:, None, None]))


# numbers


def numbers(**given: str) -> dict[str, Any]:
    form = dict(decode.read_form(b"x", given, Settings(max_samples=8, max_steps=20)))
    assert form.pop("input_array") == b"x"
    return form


def test_numbers() -> None:
    assert numbers(samples="8", steps=" 20 ", seed="-5") == {"samples": 8, "steps": 20, "seed": -5}
    assert numbers() == {} and numbers(seed=str(2**63 - 1)) == {"seed": 2**63 - 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("samples", t) for t in ("", "0", "-1", "9", "1.5", "1e3", "nan", "٣", "0x2", "1_0", "1" * 5000)],
        *[("steps", t) for t in ("0", "21", "None", "[1]")],
        *[("seed", t) for t in ("zero", str(2**63), "-" + "9" * 20, "9" * 40)],
    ],
)
def test_numbers_that_are_none(name: str, text: str) -> None:
    expected = f"^{name} must be a whole number (from 1 to|of 64 bits)"
    with pytest.raises(ServiceError, match=expected) as caught:
        numbers(**{name: text})
    assert caught.value.field == name and len(caught.value.detail) < 200


def test_times_are_as_many_as_cases() -> None:
    assert decode.read_times(None, 2) is None
    with pytest.raises(ServiceError, match="time must be 2 valid times"):
        decode.read_times(None, 2, needed=True)
    read = decode.read_times("2024-07-24T14:00+02:00, 2024-07-25", 2)
    assert read is not None and list(read) == list(to_times(["2024-07-24T12:00", "2024-07-25T00:00"]))
    for text, many in (("2024-07-24", 2), ("2024-07-24,", 2), ("", 1), ("now", 1), ("0001-01-01", 1)):
        with pytest.raises(ServiceError, match=f"time must be {many} valid time") as caught:
            decode.read_times(text, many)
        assert caught.value.status_code == 422


def test_a_period_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could have a million; nothing is made of it, and nothing of more times than cases."""
    monkeypatch.setattr(decode, "parse_time", lambda text: pytest.fail(text))
    for text, got in (
        (",".join(["1700-01-01/1701-11-25T10:40/1min"] * 12), "a period"),
        ("2024-07-24/2024-07-24/1h", "a period"),
        ("2024-07-24," * 100_000, "100001"),
    ):
        with pytest.raises(ServiceError, match=f"time must be 1 valid time .*got {got}") as caught:
            decode.read_times(text, 1)
        assert caught.value.field == "time" and len(caught.value.detail) < 200


def test_seeds_are_those_of_the_other_doors() -> None:
    times = to_times(["2024-07-24T12:00", "2024-07-25"])
    assert decode.seeds_of(5, 2, 2, times, drawn=True) == tuple(
        tuple(member_seed(5, time, m) for m in (0, 1)) for time in times
    )
    assert decode.seeds_of(-1, 2, 2, None, drawn=False) == ((2**32 - 1, 0),) * 2
    drawn = decode.seeds_of(5, 2, 1, None, drawn=True)[0]
    assert len(set(drawn)) == 2 and set(drawn).isdisjoint({5, 6})


# the tar


def test_a_tar_byte_by_byte() -> None:
    """As GNU tar makes it from a file that is read-only, belongs to root and is of 1970."""
    values = np.arange(7, dtype=np.float32).reshape(1, 1, 7)
    pieces = list(archives.member_pieces(archives.member_name(3, 12), values))
    data = b"".join(pieces) + archives.END
    assert len(data) == archives.member_size(values.shape) + 1024
    assert data[:11] == b"003_012.npy" and data[100:108] == b"0000444\0" and data[136:148] == b"00000000000\0"
    assert data[257:263] == b"ustar\0" and data[512:640] == npy(values)[:128] and data[-1024:] == bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["003_012.npy"] and tar.getmember("003_012.npy").size == 128 + 28
    assert len({b"".join(archives.member_pieces("a", values)) for _ in range(3)}) == 1


@pytest.mark.parametrize("shape", [(128,), (1, 1, 2, 96), (3, 1), (1, 1, 4, 300, 301)])
def test_tar_sizes_are_known_before(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)[..., ::-1].astype(np.float32)
    data = b"".join(archives.member_pieces("a.npy", values))
    assert len(data) == archives.member_size(shape) and len(data) % 512 == 0
    assert data[512:].rstrip(b"\0") == npy(np.ascontiguousarray(values)).rstrip(b"\0")
