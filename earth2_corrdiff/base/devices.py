# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The device of a process, by its name."""

from __future__ import annotations

import torch

from earth2_corrdiff.base.errors import InputError, first_line


def find_device(name: str, local: int | None = None) -> torch.device:
    """The device of a name, checked by using it.

    Parameters
    ----------
    name : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, …
    local : int | None, optional
        Number of this process on its machine, where there are several: each takes the next GPU, unless the
        name has a number

    Raises
    ------
    InputError
        If there is no such device, or it cannot be used
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count()
    if name == "cuda" and local is not None and count:
        name = f"cuda:{local % count}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"there is no kind of device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"there is no device {name}: this machine has {count} GPUs")
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"the device {name} cannot be used here ({first_line(error)}); use cpu, cuda or cuda:N"
        ) from error
    return device
