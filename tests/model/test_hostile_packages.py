# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Packages from strangers: each is refused in a sentence, in seconds, in little memory; no code is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from earth2studio.models.auto import Package
from tiny import curved, make_package, make_taiwan

from earth2_corrdiff.base.documents import MOST_BYTES
from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.model.downscaler import Downscaler
from earth2_corrdiff.model.packages.reader import TAIWAN_ZIP, read_package

pytestmark = pytest.mark.slow

SECONDS = 60  # of a machine that is shared; they take one or two
ARRAYS = "corrdiff_inference_package/dataset/2023-01-24-cwb-4years_5times.zarr"
Attack = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("good") / "package")


@pytest.fixture
def package(good: Path, tmp_path: Path) -> Path:
    """A good package to spoil, in a folder of its own beside nothing else."""
    (tmp_path / "home").mkdir()
    return Path(shutil.copytree(good, tmp_path / "home" / "package"))


def refused(folder: Path, word: str) -> None:
    """Loading ends in one sentence with this word, and nothing is written anywhere near."""
    before = sorted(folder.parent.rglob("*"))
    start = time.monotonic()
    with pytest.raises(InputError, match=word) as raised:
        loaded = read_package(Package(str(folder)))
        Downscaler(loaded.spec, loaded.regression, loaded.denoiser)
    assert time.monotonic() - start < SECONDS
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1500
    assert sorted(folder.parent.rglob("*")) == before


# JSON


def told(name: str, /, **change: Any) -> Attack:
    """Entries of a JSON file, changed."""

    def attack(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return attack


def text(name: str, content: str | bytes) -> Attack:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def statistics(**change: Any) -> Attack:
    def attack(folder: Path) -> None:
        path = folder / "stats.json"
        content = json.loads(path.read_text())
        content["input"]["t2m"].update(change)
        path.write_text(json.dumps(content))

    return attack


def resolution(degrees: Any) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "input_latlon_grid.nc").unlink()
        told("metadata.json", latlon_res=degrees)(folder)

    return attack


DEEP = "[" * 200_000 + "]" * 200_000
JSON: dict[str, tuple[Attack, str]] = {
    "deep metadata": (text("metadata.json", DEEP), "metadata.json is not valid JSON: .*nested"),
    "deep statistics": (text("stats.json", '{"input": ' * 90 + "1" + "}" * 90), "stats.json.*nested"),
    "long metadata": (text("metadata.json", " " * (MOST_BYTES + 1)), "more than"),
    "many values": (text("stats.json", json.dumps({"a": list(range(150_000))})), "more than 100000 values"),
    "a key twice": (text("stats.json", '{"input": {}, "input": {}}'), "'input' is there twice"),
    "no UTF-8": (text("metadata.json", b'{"name": "\xff"}'), "not valid JSON"),
    "NaN statistics": (statistics(mean=float("nan")), "not finite"),
    "infinite in float32": (statistics(mean=1e39), "not finite"),
    "zero in float32": (statistics(std=1e-46), "not positive in float32"),
    "denormal in float32": (statistics(std=1e-39), "not positive in float32"),
    "huge statistics": (statistics(std=10**400), "mean and a std"),
    "statistics of truth": (statistics(std=True), "True is not a valid number"),
    "statistics of text": (statistics(std="5"), "'5' is not a valid number"),
    "empty inputs": (told("metadata.json", input_variables=[]), "names no input_variables"),
    "inputs by name": (told("metadata.json", input_variables={"t2m": 1}), "must be a list"),
    "inputs in lists": (told("metadata.json", input_variables=[["t2m"]]), "no input statistics"),
    "a number of inputs": (told("metadata.json", output_variables=4), "must be a list"),
    "an input twice": (told("metadata.json", input_variables=["t2m", "t2m", "z500"]), "repeats t2m"),
    "truth of text": (told("metadata.json", hr_mean_conditioning="false"), "must be true or false"),
    "a title of lines": (told("metadata.json", name="tiny\n\x1b[2J"), "name must be a line of text"),
    "endless steps": (told("metadata.json", number_of_steps=10**12), "at most 10000"),
    "endless members": (told("metadata.json", number_of_samples=10**12), "at most 100000"),
    "a huge seed": (told("metadata.json", seed=10**300), "seed must be a whole number from"),
    "noise beyond float32": (told("metadata.json", sigma_max=1e30), "sigma_max"),
    "no noise": (told("metadata.json", sigma_min=1e-320), "sigma_min"),
    "a margin around the earth": (told("metadata.json", grid_bounds_margin=1e300), "at most 1"),
    "infinite noise": (told("metadata.json", sigma_max=float("inf")), "sigma_max"),
    "NaN margin": (told("metadata.json", grid_bounds_margin=float("nan")), "grid_bounds_margin"),
    "huge lead times": (told("metadata.json", lead_time_hours=[0, 10**400]), "rising hours"),
    "no patches": (
        told("metadata.json", patching={"patch_shape_y": -1, "patch_shape_x": 8}),
        "positive sizes",
    ),
    "resolution of 0": (resolution(0), "latlon_res must be a positive number"),
    "tiny resolution": (resolution(1e-9), "latlon_res of 1e-09 degrees is too small"),
    "NaN resolution": (resolution(float("nan")), "latlon_res must be a positive number"),
}


@pytest.mark.parametrize(("attack", "word"), JSON.values(), ids=JSON.keys())
def test_documents(package: Path, attack: Attack, word: str) -> None:
    attack(package)
    refused(package, word)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", ".hidden", "a\nb", "lat", "member_seed", ""])
def test_names_that_would_be_paths_or_axes_of_a_store(package: Path, name: str) -> None:
    table = {"mean": 0, "std": 1}
    told("metadata.json", output_variables=["mrr", name])(package)
    told("stats.json", output={"mrr": table, name: table})(package)
    refused(package, "not a valid name of a variable|name of an axis in stores")


# files that are none


def linked(name: str, target: str) -> Attack:
    """A link in place of a file; ``{home}`` is the folder around the package."""

    def attack(folder: Path) -> None:
        outside = folder.parent / "outside"
        shutil.copy(folder / name, outside)
        (folder / name).unlink()
        (folder / name).symlink_to(target.format(home=folder.parent))

    return attack


def piped(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return attack


def folded(name: str) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return attack


FILES: dict[str, tuple[Attack, str]] = {
    "link out of the package": (linked("regression.mdlus", "{home}/outside"), "link to a file outside"),
    "link with dots": (linked("stats.json", "../outside"), "link to a file outside"),
    "link to a device": (linked("metadata.json", "/dev/zero"), "outside the package"),
    "link to nowhere": (linked("stats.json", "nowhere"), "stats.json cannot be read"),
    "link to itself": (linked("stats.json", "stats.json"), "stats.json cannot be read"),
    "pipe": (piped("metadata.json"), "metadata.json is not a regular file"),
    "pipe of weights": (piped("diffusion.mdlus"), "diffusion.mdlus is not a regular file"),
    "pipe of what may be missing": (piped("invariants.nc"), "invariants.nc is not a regular file"),
    "folder": (folded("output_latlon_grid.nc"), "output_latlon_grid.nc is not a regular file"),
}


@pytest.mark.parametrize(("attack", "word"), FILES.values(), ids=FILES.keys())
def test_files_that_are_none(package: Path, attack: Attack, word: str) -> None:
    attack(package)
    refused(package, word)


def test_links_inside_a_package_are_followed(package: Path) -> None:
    """And those of Hugging Face's cache, whose files lie beside the package."""
    (package / "weights").mkdir()
    (package / "regression.mdlus").rename(package / "weights" / "r")
    (package / "regression.mdlus").symlink_to("weights/r")
    assert read_package(Package(str(package))).spec.name == "tiny"
    snapshot, blobs = package.parent / "snapshots" / "1a2b", package.parent / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(package, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert read_package(Package(str(snapshot))).spec.name == "tiny"


# checkpoints


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(content: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


def checkpoint(change: Callable[[dict[str, bytes]], object], how: int = zipfile.ZIP_DEFLATED) -> Attack:
    """Other members in the denoiser's checkpoint."""

    def attack(folder: Path) -> None:
        path = folder / "diffusion.mdlus"
        content = members(path)
        change(content)
        path.write_bytes(rewritten(content, how))

    return attack


def arguments(**change: Any) -> Attack:
    def edit(content: dict[str, bytes]) -> None:
        about = json.loads(content["args.json"])
        about["__args__"].update(change)
        content["args.json"] = json.dumps(about).encode()

    return checkpoint(edit)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Attack:
    def edit(content: dict[str, bytes]) -> None:
        state = torch.load(io.BytesIO(content["model.pt"]), weights_only=True)
        change(state)
        stream = io.BytesIO()
        torch.save(state, stream)
        content["model.pt"] = stream.getvalue()

    return checkpoint(edit)


def pickled(change: Callable[[dict[str, bytes], str], object], how: int = zipfile.ZIP_STORED) -> Attack:
    """Other members in the file of weights inside of the checkpoint: called with them and their folder."""

    def edit(content: dict[str, bytes]) -> None:
        with zipfile.ZipFile(io.BytesIO(content["model.pt"])) as archive:
            inner = {name: archive.read(name) for name in archive.namelist()}
        root = next(name for name in inner if name.endswith("data.pkl")).removesuffix("data.pkl")
        change(inner, root)
        content["model.pt"] = rewritten(inner, how)

    return checkpoint(edit)


def program(code: bytes) -> Attack:
    """A pickle in place of the description of the weights."""
    return pickled(lambda inner, root: inner.update({f"{root}data.pkl": code}))


def first_size(number: bytes) -> Callable[[dict[str, bytes], str], None]:
    """Another number of values in the first storage, as the pickle's four bytes."""

    def change(inner: dict[str, bytes], root: str) -> None:
        code = inner[f"{root}data.pkl"]
        at = code.index(b"cpu") + 3
        at = code.index(b"K", at) if code[at : at + 6].find(b"K") >= 0 else code.index(b"M", at)
        old = 2 if code[at : at + 1] == b"K" else 3
        inner[f"{root}data.pkl"] = code[:at] + number + code[at + old :]

    return change


def lying(size: int) -> Attack:
    """A checkpoint whose directory says that the weights have another size."""

    def attack(folder: Path) -> None:
        path = folder / "diffusion.mdlus"
        content, data = members(path), bytearray(path.read_bytes())
        true = struct.pack("<L", len(content["model.pt"]))
        at = data.rindex(true)
        data[at : at + 4] = struct.pack("<L", size)
        path.write_bytes(bytes(data))

    return attack


def twice(folder: Path) -> None:
    path = folder / "diffusion.mdlus"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("args.json", b"{}")


def compressed_tar(folder: Path) -> None:
    path, stream = folder / "diffusion.mdlus", io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members(path).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(stream.getvalue())


def linked_tar(folder: Path) -> None:
    path, stream = folder / "diffusion.mdlus", io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("args.json", "model.pt"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    path.write_bytes(stream.getvalue())


def crowded(folder: Path) -> None:
    """A directory of a million names that are all the same few bytes."""
    name, count = b"x" * 40, 10**6
    one = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[20, 20, 0, 0, 0, 0], 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    directory = (one + name) * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), 0, 0)
    (folder / "diffusion.mdlus").write_bytes(directory + end)


def climbing(content: dict[str, bytes]) -> None:
    content["../../evil"] = b"outside"
    content["args.json"] = b"{}"


def twins() -> bytes:
    """A pickle of a tuple of itself fifty times over, as a key: its hash would take for ever."""
    return b"\x80\x02}(K\x01\x85" + b"q\x00h\x00\x86" * 50 + b"K\x01u."


def shares(state: dict[str, torch.Tensor]) -> None:
    one = torch.zeros(10_000)
    for key, value in state.items():
        state[key] = one[: value.numel()].view(value.shape)


def nan(state: dict[str, torch.Tensor]) -> None:
    next(iter(state.values())).view(-1)[0] = float("nan")


CHECKPOINTS: dict[str, tuple[Attack, str]] = {
    "negative width": (arguments(model_channels=-8), "model_channels must be 1 to"),
    "NaN width": (arguments(model_channels=float("nan")), "model_channels must be 1 to"),
    "huge width": (arguments(model_channels=10**9), "model_channels must be 1 to"),
    "wide": (arguments(model_channels=2**15), "misshapen"),
    "endless blocks": (arguments(num_blocks=10**9), "num_blocks must be 1 to 64"),
    "many blocks": (arguments(num_blocks=64), "missing"),
    "endless levels": (arguments(channel_mult=[1] * 10_000), "channel_mult must be"),
    "huge domain": (arguments(img_resolution=10**6), "img_resolution must be"),
    "large domain": (arguments(img_resolution=[5000, 5000]), "16 x 24 does not fit.*5000 x 5000"),
    "NaN domain": (arguments(img_resolution=[float("nan"), 16]), "img_resolution must be"),
    "domain of text": (arguments(img_resolution="16"), "img_resolution must be"),
    "endless features": (arguments(N_grid_channels=10**9), "N_grid_channels must be"),
    "huge lead times": (
        arguments(model_type="SongUNetPosLtEmbd", lead_time_channels=4000, lead_time_steps=4000),
        "missing: model.lt_embd",
    ),
    "labels of nothing": (arguments(label_dim=None), "label_dim must be 0 to 4096"),
    "places of no kind": (arguments(gridtype=None), "gridtype None does not go with"),
    "places of another kind": (
        arguments(model_type="SongUNet", gridtype="sinusoidal", N_grid_channels=4),
        "'sinusoidal' does not go with a SongUNet",
    ),
    "noise of nothing": (arguments(sigma_data=float("nan")), "sigma_data must be"),
    "another network": (arguments(model_type="Path"), "no CorrDiff network|only PhysicsNeMo can build"),
    "no network": (arguments(model_type=["SongUNet"]), "model_type must be a name"),
    "deep arguments": (checkpoint(lambda c: c.update({"args.json": DEEP.encode()})), "nested too deeply"),
    "long arguments": (checkpoint(lambda c: c.update({"args.json": b" " * 50_000_000})), "more than"),
    "arguments twice": (twice, "there twice"),
    "a million members": (crowded, "its directory has"),
    "out of the folder": (checkpoint(climbing), "__name__"),
    "weights of zeros": (checkpoint(lambda c: c.update({"model.pt": bytes(100_000_000)})), "more than"),
    "other compression": (checkpoint(lambda c: None, zipfile.ZIP_BZIP2), "compressed in a way"),
    "a size too small": (lying(10), "not a complete .mdlus checkpoint"),
    "a size too large": (lying(2**31), "more than"),
    "compressed tar": (compressed_tar, "not a complete .mdlus checkpoint"),
    "tar of links": (linked_tar, "lacks args.json and model.pt"),
    "storage of 16 GB": (pickled(first_size(b"J\xff\xff\xff\x7f")), "numbers"),
    "negative storage": (pickled(first_size(b"J\xff\xff\xff\xff")), "no whole number"),
    "compressed storages": (pickled(lambda inner, root: None, zipfile.ZIP_DEFLATED), "is compressed"),
    "no storages": (
        pickled(lambda inner, root: [inner.pop(n) for n in list(inner) if f"{root}data/" in n]),
        "damaged",
    ),
    "no weights": (program(b"\x80\x02}."), "missing"),
    "half a pickle": (program(b"\x80\x02}("), "more than weights, or is damaged"),
    "a call": (program(pickle.dumps(print)), "it names"),
    "room for much": (program(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "it names"),
    "a place far away": (program(b"\x80\x02}r\xff\xff\xff\xffK\x01\x86."), "no named tensors"),
    "twins": (program(twins()), "a name is no text"),
    "copies": (
        program(b"\x80\x02ccollections\nOrderedDict\n}(" + b"U\x01aK\x01" * 9 + b"u\x85R."),
        "a call makes no tensor",
    ),
    "shared storages": (weights(shares), "share their numbers"),
    "stretched weights": (
        weights(lambda s: s.update({k: torch.zeros(1).expand(v.shape) for k, v in s.items()})),
        "larger than its 1 numbers",
    ),
    "weights of no numbers": (weights(nan), "weights that are not finite"),
    "too large for float32": (
        weights(lambda s: s.update({k: v.double() * 1e300 for k, v in s.items()})),
        "weights that are not finite",
    ),
    "whole numbers": (weights(lambda s: s.update({k: v.long() for k, v in s.items()})), "whole numbers"),
}


@pytest.mark.parametrize(("attack", "word"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_checkpoints(package: Path, attack: Attack, word: str) -> None:
    attack(package)
    refused(package, word)


# NetCDF

GRID = "output_latlon_grid.nc"


def hdf5(change: Callable[[h5py.File], object], name: str = GRID) -> Attack:
    def attack(folder: Path) -> None:
        with h5py.File(folder / name, "a") as file:
            change(file)

    return attack


def instead(name: str, **how: Any) -> Callable[[h5py.File], None]:
    """Another dataset under a name."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


def link(name: str, target: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = target

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((16, 24), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "lat", (16, 24))
    del file["lat"]
    file.create_virtual_dataset("lat", layout)


def bursting(file: h5py.File) -> None:
    """A piece of 16 x 24 numbers that would inflate to 20 MB."""
    del file["lat"]
    made = file.create_dataset("lat", (16, 24), "f4", chunks=(16, 24), compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(20_000_000), 9)[:1500])
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1_400_000), 9))


def classic(folder: Path) -> None:
    """A small file of the classic format that says it has more than it has."""
    path = folder / GRID
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("y", 16)
        file.createDimension("x", 24)
        for name, values in (("lat", curved(16, 24).lat), ("lon", curved(16, 24).lon)):
            file.createVariable(name, "f4", ("y", "x"))[:] = values
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b"y\0\0\0" + struct.pack(">L", 16), b"y\0\0\0" + struct.pack(">L", 2**22), 1)
    )


NETCDF: dict[str, tuple[Attack, str]] = {
    "external link": (hdf5(link("lat", h5py.ExternalLink("/etc/passwd", "/lat"))), "'lat' is a link"),
    "link to itself": (hdf5(link("lat", h5py.SoftLink("/lat"))), "'lat' is a link"),
    "links in a ring": (
        hdf5(lambda f: [link("a", h5py.SoftLink("/b"))(f), link("b", h5py.SoftLink("/a"))(f)]),
        "'a' is a link",
    ),
    "group of itself": (hdf5(lambda f: link("group", f["/"])(f)), "'group' is a group"),
    "numbers elsewhere": (
        hdf5(instead("lat", shape=(16, 24), dtype="f4", external=[("/etc/passwd", 0, 1536)])),
        "keeps its numbers in other files",
    ),
    "virtual": (hdf5(virtual), "keeps its numbers in other files"),
    "huge shape": (
        hdf5(instead("lat", shape=(10**6, 10**6), dtype="f4", chunks=(64, 64))),
        "more than the 67108864",
    ),
    "bomb": (
        hdf5(instead("lat", shape=(30_000, 30_000), dtype="f8", chunks=(3000, 3000), compression=9)),
        "more than the 67108864",
    ),
    "huge pieces": (
        hdf5(instead("lat", shape=(16, 24), maxshape=(None, None), dtype="f4", chunks=(20_000, 20_000))),
        "has pieces of",
    ),
    "bursting pieces": (hdf5(bursting), "larger than they claim"),
    "another shape": (hdf5(instead("lat", data=np.zeros((3, 4, 5)))), "both 1-D, or 2-D"),
    "a number": (hdf5(instead("lat", data=20.0)), "both 1-D, or 2-D"),
    "texts": (
        hdf5(instead("lat", data=np.array(["a", "b"], dtype=object), dtype=h5py.string_dtype())),
        "numbers",
    ),
    "fixed texts": (hdf5(instead("lat", data=np.full((16, 24), b"20.0"))), "numbers"),
    "lists": (hdf5(instead("lat", shape=(16, 24), dtype=h5py.vlen_dtype("f4"))), "numbers"),
    "complex": (hdf5(instead("lat", data=np.zeros((16, 24), "c8"))), "numbers"),
    "nothing": (hdf5(instead("lat", data=h5py.Empty("f4"))), "numbers"),
    "no longitudes": (hdf5(lambda f: f.__delitem__("lon")), "has no lon"),
    "not finite": (hdf5(lambda f: f["lat"].__setitem__((0, 0), np.nan)), "finite"),
    "many names": (
        hdf5(lambda f: [f.create_dataset(f"n{i}", data=0) for i in range(1100)]),
        "more than 1000",
    ),
    "invariants of another shape": (
        hdf5(instead("orography", shape=(5000, 5000), dtype="f4"), "invariants.nc"),
        r"the invariants have shape \(1, 5000, 5000\)",
    ),
    "invariants of no numbers": (
        hdf5(instead("orography", data=np.full((16, 24), np.inf, "f4")), "invariants.nc"),
        "invariants are not finite",
    ),
    "less than it says": (classic, "claims .* bytes|no complete NetCDF file"),
    "no NetCDF": (text(GRID, b"GRIB" + bytes(2000)), "no complete NetCDF file"),
}


@pytest.mark.parametrize(("attack", "word"), NETCDF.values(), ids=NETCDF.keys())
def test_netcdf(package: Path, attack: Attack, word: str) -> None:
    attack(package)
    refused(package, word)


def test_netcdf_that_is_unusual_and_good(package: Path) -> None:
    """The classic format, packed numbers, deflate with checksums, and whole degrees."""
    want = curved(16, 24)
    ds = xr.Dataset({"lat": (("y", "x"), want.lat), "lon": (("y", "x"), want.lon)})
    packed = {"dtype": "i4", "scale_factor": 1e-6, "_FillValue": -1}
    for how in (
        {"format": "NETCDF3_64BIT"},
        {"encoding": {name: packed for name in ("lat", "lon")}},
        {"encoding": {name: {"zlib": True, "fletcher32": True, "shuffle": True} for name in ("lat", "lon")}},
    ):
        ds.to_netcdf(package / GRID, engine="netcdf4", **how)  # type: ignore[arg-type]
        got = read_package(Package(str(package))).spec.output_grid
        assert np.abs(got.lat - want.lat).max() < 1e-5 and got.lat.dtype.kind == "f"
    degrees = xr.Dataset({"lat": ("lat", np.arange(20, 26)), "lon": ("lon", np.arange(118, 126))})
    degrees.to_netcdf(package / "input_latlon_grid.nc")
    assert read_package(Package(str(package))).spec.input_grid.lat.dtype == np.float64


# the Taiwan layout


@pytest.fixture(scope="module")
def good_taiwan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_taiwan(tmp_path_factory.mktemp("taiwan") / "package")


def array(name: str, **change: Any) -> Callable[[dict[str, bytes]], None]:
    def edit(content: dict[str, bytes]) -> None:
        path = f"{ARRAYS}/{name}/.zarray"
        content[path] = json.dumps({**json.loads(content[path]), **change}).encode()

    return edit


def code_in_a_codec(content: dict[str, bytes]) -> None:
    """Chunks that a codec of Zarr would unpickle."""
    array("XLAT", filters=[{"id": "pickle"}])(content)


def zarr_bomb(content: dict[str, bytes]) -> None:
    from numcodecs import Zstd

    name = next(n for n in content if n.startswith(f"{ARRAYS}/XLAT/0"))
    content[name] = Zstd(9).encode(bytes(200_000_000))
    array("XLAT", compressor={"id": "zstd", "level": 9})(content)


TAIWAN: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "code in a filter": (code_in_a_codec, "no plain array"),
    "code in a compressor": (array("XLAT", compressor={"id": "pickle"}), "compressed by 'pickle'"),
    "objects": (array("XLAT", dtype="|O"), "must hold numbers"),
    "huge shape": (array("XLAT", shape=[10**6, 10**6]), "more than"),
    "huge pieces": (array("XLAT", chunks=[10**5, 10**5]), "more than"),
    "negative shape": (array("XLAT", shape=[-1, 26]), "whole numbers from 1"),
    "bomb": (zarr_bomb, "destination buffer too small"),
    "NaN statistics": (
        array("era5_scale", fill_value="NaN", chunks=[64], dimension_separator="/"),
        "not finite",
    ),
    "one network": (lambda c: c.pop(next(n for n in c if n.endswith("diffusion.mdlus"))), "diffusion"),
}


@pytest.mark.parametrize(("edit", "word"), TAIWAN.values(), ids=TAIWAN.keys())
def test_taiwan_layout(
    good_taiwan: Path, tmp_path: Path, edit: Callable[[dict[str, bytes]], object], word: str
) -> None:
    content = members(good_taiwan / TAIWAN_ZIP)
    if word == "not finite":  # its only chunk is not there
        content = {n: d for n, d in content.items() if not n.startswith(f"{ARRAYS}/era5_scale/0")}
    edit(content)
    folder = tmp_path / "home" / "package"
    folder.mkdir(parents=True)
    (folder / TAIWAN_ZIP).write_bytes(rewritten(content, zipfile.ZIP_STORED))
    refused(folder, word)


# memory

PROGRAM = """
import resource, sys
from earth2_corrdiff.model.packages.files import Folder
from earth2_corrdiff.model.packages.reader import read_package
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[1:]:
    try:
        read_package(Folder(Path(folder)))
    except ValueError as error:
        print(type(error).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
BIG: dict[str, Attack] = {
    "weights of zeros": checkpoint(lambda c: c.update({"model.pt": bytes(500_000_000)})),
    "wide": arguments(model_channels=2**15),
    "large domain": arguments(img_resolution=[5000, 5000]),
    "grid of zeros": hdf5(
        instead("lat", shape=(30_000, 30_000), dtype="f8", chunks=(3000, 3000), compression=9)
    ),
    "invariants": hdf5(instead("orography", shape=(8000, 8000), dtype="f4"), "invariants.nc"),
    "small cells": resolution(1e-7),
}


@pytest.mark.process
def test_memory(good: Path, tmp_path: Path) -> None:
    """All in one process, whose peak is the largest of them."""
    folders = [Path(shutil.copytree(good, tmp_path / name)) for name in BIG]
    for folder, attack in zip(folders, BIG.values(), strict=True):
        attack(folder)
    words = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(BIG)
    for name, (kind, kilobytes) in zip(BIG, lines, strict=True):
        assert kind == "InputError" and int(kilobytes) < 400_000, name
