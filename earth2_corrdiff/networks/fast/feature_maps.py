# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Memory for the feature maps of large domains: on the device, in host memory, or in files."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from earth2_corrdiff.base.errors import InputError


class MapMemory:
    """Memory for feature maps: on the network's device, in host memory, or in files.

    Parameters
    ----------
    maps : str | Path
        ``"device"``, ``"host"``, or a folder: maps are then files that are mapped into memory, and the
        operating system writes out what it needs the memory for

    Raises
    ------
    InputError
        If the folder does not exist; later, if a map does not fit into it
    """

    def __init__(self, maps: str | Path = "device") -> None:
        self.folder = None if maps in ("device", "host") else Path(maps)
        self.host = maps == "host"
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"feature maps go to the device, the host or a folder; {maps} is none of these")

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An empty tensor, row-major, for a network on ``device``."""
        if self.folder is not None:
            return self._mapped(self.folder, math.prod(shape), dtype).view(*shape)
        return torch.empty(*shape, dtype=dtype, device="cpu" if self.host else device)

    def _mapped(self, folder: Path, size: int, dtype: torch.dtype) -> Tensor:
        handle, name = tempfile.mkstemp(prefix="corrdiff-map-", dir=folder)
        try:
            # reserved now: a full disk would end the process at the first write into the mapping
            os.posix_fallocate(handle, 0, size * dtype.itemsize)
            return torch.from_file(name, shared=True, size=size, dtype=dtype)
        except OSError as error:
            raise InputError(
                f"{folder} has no room for a feature map of {size * dtype.itemsize / 1e9:.1f} GB "
                f"({error.strerror}); name another folder for them"
            ) from error
        finally:
            os.close(handle)
            os.unlink(name)  # the mapping keeps it until the map is dropped
