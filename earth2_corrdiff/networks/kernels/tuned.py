# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Choices that were measured on this machine, from a table that ``python -m earth2_corrdiff tune`` has made.

The table lies beside the compiled kernels, one per device, driver and versions. Without one, with a damaged
one, and with ``EARTH2_CORRDIFF_TUNED=0``, the defaults hold: nothing is ever measured by itself. All
processes that read the same table compute the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from loguru import logger

from earth2_corrdiff.networks.kernels import native

FORMAT = 2
DRIVERS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version")
# What may be chosen of the Triton kernels: constants of triton_tiles, and the warps of its launches.
TILES: Mapping[str, tuple[int, ...]] = {
    "TILE": (2048, 4096, 8192),
    "SUM_TILE": (512, 1024, 2048),
    "SPANS": (512, 1024, 2048),
    "LAUNCH": (4, 8),
    "SUMS": (4, 8),
}
PRECISIONS = ("fp32", "bf16")
ATTENTION = ("tiles", "flex", "natten")  # forms of neighbourhood attention


@dataclass(frozen=True)
class Choice:
    """Choices of a machine's table; an empty one is the default.

    Attributes
    ----------
    tiles : Mapping[str, int]
        Values of ``TILES`` that replace the kernels' own
    graphs : bool
        True if a GPU's denoising step is captured as a graph
    own : Mapping[str, bool]
        Per precision, True if a CPU runs this package's kernels where it can, and not PyTorch's operators
    attention : str
        Form of neighbourhood attention on a GPU, of ``ATTENTION``
    """

    tiles: Mapping[str, int] = field(default_factory=dict)
    graphs: bool = True
    own: Mapping[str, bool] = field(default_factory=dict)
    attention: str = "tiles"

    def __post_init__(self) -> None:
        for name, value in self.tiles.items():
            if name not in TILES or type(value) is not int or value not in TILES[name]:
                raise ValueError(f"{name} = {value!r} is not a valid tile size")
        if not isinstance(self.graphs, bool):
            raise ValueError(f"graphs = {self.graphs!r} is not true or false")
        if self.attention not in ATTENTION:
            raise ValueError(f"{self.attention!r} is not a valid form of attention")
        for name, value in self.own.items():
            if name not in PRECISIONS or not isinstance(value, bool):
                raise ValueError(f"own kernels in {name!r} = {value!r} is not true or false of a precision")

    def __str__(self) -> str:
        parts = [f"{name} {value}" for name, value in self.tiles.items()]
        parts += [] if self.graphs else ["no graphs"]
        parts += [] if self.attention == "tiles" else [f"attention by {self.attention}"]
        parts += [f"PyTorch's operators in {name}" for name, own in self.own.items() if not own]
        return ", ".join(parts) or "the defaults"


DEFAULT = Choice()
_used: list[Choice] = []  # what holds instead of the table, the last one


def chosen(device: torch.device) -> Choice:
    """The choices for a device: its table's, else the defaults."""
    if _used:
        return _used[-1]
    if os.getenv("EARTH2_CORRDIFF_TUNED") == "0":
        return DEFAULT
    return _read(device.type, _index(device), torch.get_num_threads())


def arithmetic(device: torch.device, precision: str) -> str:
    """Changes of a choice in the bits of results, for the record of a run; empty for the defaults."""
    choice = chosen(device)
    if device.type == "cpu":
        return "" if choice.own.get(precision, True) else "PyTorch's operators"
    bits = Choice(choice.tiles, attention=choice.attention)
    return "" if bits == DEFAULT else str(bits)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """``choice`` instead of any table, for what measures it."""
    _used.append(choice)
    try:
        yield
    finally:
        _used.pop()


def forget() -> None:
    """Read tables again: another one has been written."""
    _read.cache_clear()


def apply(triton_tiles: ModuleType, device: torch.device) -> None:
    """Give the Triton kernels the tile sizes that hold on a device; before the first of them runs."""
    set_tiles(triton_tiles, chosen(device).tiles)


def set_tiles(triton_tiles: ModuleType, tiles: Mapping[str, int]) -> dict[str, int]:
    """Set constants of ``triton_tiles``; their values before, of those that it has."""
    before = {}
    for name, value in tiles.items():
        now = getattr(triton_tiles, name, None)
        if isinstance(now, dict):
            before[name], now["num_warps"] = now["num_warps"], value
        elif now is not None:
            before[name] = now
            setattr(triton_tiles, name, value)
    return before


def about(device: torch.device) -> dict[str, str]:
    """Conditions of a table: device, driver and versions; on a CPU the number of threads too."""
    found = {
        "kernels": _sources(),
        "torch": torch.__version__,
        "driver": next((_line(path) for path in DRIVERS if Path(path).exists()), ""),
    }
    if device.type == "cpu":
        cpu = hashlib.sha256(native._cpu().encode()).hexdigest()[:16]
        return {**found, "device": f"cpu {cpu}", "threads": str(torch.get_num_threads()), "driver": ""}
    properties = torch.cuda.get_device_properties(device)
    return {
        **found,
        "device": f"{properties.name}, {properties.multi_processor_count} multiprocessors",
        "CUDA or ROCm": str(torch.version.cuda or torch.version.hip),
        "cuDNN or MIOpen": str(_cudnn()),
        "triton": _version("triton"),
        "natten": _version("natten"),
    }


def path_of(device: torch.device) -> Path:
    """The file of a device's table."""
    key = hashlib.sha256(json.dumps([FORMAT, about(device)], sort_keys=True).encode()).hexdigest()
    return native.cache_folder() / f"tuned-{key[:20]}.json"


def save(device: torch.device, choice: Choice, won: Mapping[str, float]) -> Path:
    """Write a device's table; ``won`` is how many times faster than the default each choice is.

    Raises
    ------
    OSError
        If the folder cannot be written
    """
    path = path_of(device)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {"format": FORMAT, "about": about(device), "choice": asdict(choice), "won": dict(won)}
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json.part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    forget()
    return path


@cache
def _read(kind: str, index: int | None, threads: int) -> Choice:
    """The choice in the table of a device; a CPU's depends on the number of threads."""
    device = torch.device(kind) if index is None else torch.device(kind, index)
    try:
        path = path_of(device)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return DEFAULT
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: no home folder
        logger.warning("the table of tuned choices cannot be read ({}); the defaults are used", error)
        return DEFAULT
    try:
        choice, won = _parsed(text, about(device))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        again = "make it again with python -m earth2_corrdiff tune"
        logger.warning("the table {} is damaged ({}) and is ignored; {}", path, error, again)
        return DEFAULT
    gains = ", ".join(f"{name} {ratio:.2f} x" for name, ratio in won.items())
    logger.debug("tuned for this {}: {}; won: {}; from {}", kind, choice, gains or "nothing", path)
    return choice


def _parsed(text: str, wanted: Mapping[str, str]) -> tuple[Choice, dict[str, float]]:
    content = json.loads(text)
    if content["format"] != FORMAT or content["about"] != wanted:
        raise ValueError("it belongs to another machine or version")
    choice = content["choice"]
    won = {str(name): float(ratio) for name, ratio in content["won"].items()}
    return Choice(dict(choice["tiles"]), choice["graphs"], dict(choice["own"]), choice["attention"]), won


def _index(device: torch.device) -> int | None:
    if device.type == "cpu":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _sources() -> str:
    """A fingerprint of the kernels themselves."""
    key = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.c"), *folder.glob("*.h"), *folder.glob("triton_*.py")]):
        key.update(path.read_bytes())
    return key.hexdigest()[:16]


def _cudnn() -> int | None:
    from torch.backends import cudnn

    version: Any = cudnn.version
    found: int | None = version()
    return found


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
