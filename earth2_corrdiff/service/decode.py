# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What a client sends, checked before anything is made of it: a npy file and a few numbers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, parse_time, to_leads, to_times
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds, drawn_seeds, member_seed
from earth2_corrdiff.model.diffusion.solvers import SOLVERS
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.service.errors import ServiceError, wrong
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.sources import check_input

ARRAY = "input_array"
NUMBERS = ("samples", "steps", "seed")
FIELDS = (ARRAY, *NUMBERS, "solver", "time", "lead_time")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
SEEDS = 2**63  # seeds are of 64 bits with a sign: what PyTorch's generators take


def read_array(data: bytes, spec: CorrDiffSpec, max_states: int) -> NDArray[np.float32]:
    """The input of a request from the bytes of a npy file.

    Nothing is unpickled or decompressed, and no array is made before the header agrees with the model and
    with the number of bytes that follow it.

    Parameters
    ----------
    data : bytes
        A npy file: ``(batch, variables, h, w)``, or with one more leading axis; float16, 32 or 64
    spec : CorrDiffSpec
        Says which variables and grid
    max_states : int
        Most states in a batch

    Returns
    -------
    np.ndarray
        ``[B, C, h, w]`` float32

    Raises
    ------
    ServiceError
        422, with what was expected and what came
    """
    shape, fortran, dtype, start = _header(data)
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise wrong(ARRAY, "an array of float32 (float16 and float64 are converted)", dtype)
    want = (len(spec.inputs.names), *spec.input_grid.shape)
    axes = ", ".join(map(str, want))
    if len(shape) not in (4, 5) or shape[-3:] != want:
        raise wrong(ARRAY, f"of shape (batch, {axes}) or (1, batch, {axes})", f"the shape {shape}")
    states = math.prod(shape[:-3])
    if not 1 <= states <= max_states:
        raise wrong(ARRAY, f"a batch of 1 to {max_states} states", states)
    size = math.prod(shape) * dtype.itemsize
    if len(data) - start != size:
        raise wrong(ARRAY, f"a npy file with {size} bytes after its header", f"{len(data) - start}")
    values = np.frombuffer(data, dtype, offset=start)
    values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    with np.errstate(over="ignore"):  # infinite then, and refused below
        result = np.array(values, dtype=np.float32, order="C").reshape(-1, *want)
    bad = [name for c, name in enumerate(spec.inputs.names) if not np.isfinite(result[:, c]).all()]
    if bad:
        raise wrong(ARRAY, "finite everywhere", f"NaN or infinity in {', '.join(bad)}")
    return result


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and dtype of a npy file, and where its values start."""
    expected = "a npy file of plain numbers, as numpy.save writes it"
    if data[:2] == b"PK":
        raise wrong(ARRAY, expected, "a zip file (a npz?)")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _HEADERS[version](file)
    except Exception as error:  # whatever a hostile header brings about in its parser
        raise wrong(ARRAY, expected, f"a file that is none ({len(data)} bytes)") from error
    if dtype.hasobject:
        raise wrong(ARRAY, expected, "pickled objects")
    if any(type(length) is not int or length < 0 for length in shape):  # True counts as 1, and -1 as any
        raise wrong(ARRAY, expected, f"the shape {shape}")
    return shape, fortran, dtype, file.tell()


def check_weather(values: NDArray[np.float32], spec: CorrDiffSpec, times: Times | None = None) -> None:
    """Refuse what is no weather, as every other source of input is: wrong units, markers of missing values.

    Parameters
    ----------
    values : np.ndarray
        ``[B, C, h, w]``
    spec : CorrDiffSpec
        Names the variables
    times : Times | None, optional
        Valid times of the states, for the message

    Raises
    ------
    ServiceError
        422 with the first variable that is wrong, what it has, and what is expected
    """
    expected = "weather in the units of /v1/metadata"
    try:
        check_input(values, spec.inputs.names, "the request", times)
    except InputError as error:
        said = str(error).removeprefix("the input from the request").lstrip()
        raise ServiceError(422, f"{ARRAY} must be {expected}; {said}", ARRAY, expected) from None


def read_numbers(form: Mapping[str, str], settings: Settings) -> dict[str, int]:
    """``samples``, ``steps`` and ``seed``, as far as they are given.

    Raises
    ------
    ServiceError
        422 for what is no whole number, or out of the limits
    """
    limits = {
        "samples": range(1, settings.max_samples + 1),
        "steps": range(1, settings.max_steps + 1),
        "seed": range(-SEEDS, SEEDS),
    }
    return {name: _integer(name, form[name], limits[name]) for name in NUMBERS if name in form}


def _integer(name: str, text: str, among: range) -> int:
    said = "of 64 bits" if name == "seed" else f"from {among[0]} to {among[-1]}"
    if not _INTEGER.fullmatch(text.strip()) or int(text) not in among:
        raise wrong(name, f"a whole number {said}", repr(text))
    return int(text)


def read_sampling(form: Mapping[str, str], numbers: Mapping[str, int], default: Sampling) -> Sampling:
    """The model's sampling with the request's steps and solver.

    Raises
    ------
    ServiceError
        422 for a solver that there is not
    """
    solver = form.get("solver", default.solver)
    if solver not in SOLVERS:
        raise wrong("solver", f"one of {', '.join(SOLVERS)}", repr(solver))
    return replace(default, solver=solver, steps=numbers.get("steps", default.steps))


def read_times(form: Mapping[str, str], states: int) -> Times | None:
    """Valid times of the states; None where the request names none.

    Raises
    ------
    ServiceError
        422 for what is no time, or where they are not as many as the states
    """
    if "time" not in form:
        return None
    expected = f"{states} valid time{'s' * (states > 1)} (UTC, as 2024-07-24T12:00; commas between several)"
    texts = _texts(form, "time", states, expected)
    try:
        return to_times([parse_time(text) for text in texts])
    except InputError as error:
        raise wrong("time", expected, repr(form["time"])) from error


def _texts(form: Mapping[str, str], name: str, states: int, expected: str) -> list[str]:
    """What a field says of each state, counted before anything is made of it: no period, of a million."""
    texts = form[name].split(",", states)
    if any("/" in text for text in texts):
        raise wrong(name, expected, "a period")
    if len(texts) != states:
        raise wrong(name, expected, form[name].count(",") + 1)
    return texts


def read_leads(
    form: Mapping[str, str], states: int, times: Times | None, spec: CorrDiffSpec
) -> tuple[float, ...] | None:
    """Lead times of the states in hours; None where the request names none and the package needs none.

    Raises
    ------
    ServiceError
        422 for what is no lead time, for one that the package was not trained with, where they are not as
        many as the states, or where it would change nothing
    """
    known = ", ".join(f"{hours:g}" for hours in spec.lead_time_hours)
    which = f", one of {known} h" if known else ""
    expected = f"{states} lead time{'s' * (states > 1)} (hours, as 6 or 90min; commas between several){which}"
    if "lead_time" not in form:
        if spec.lead_time_hours:
            raise wrong("lead_time", expected, "nothing")
        return None
    if times is None and not spec.lead_time_hours:
        says = "given with a time, as this package was trained without lead times"
        raise wrong("lead_time", says, "a lead time alone, which would change nothing")
    texts = _texts(form, "lead_time", states, expected)
    try:
        leads = tuple(float(to_leads(text)[0] / np.timedelta64(1, "h")) for text in texts)
        for hours in leads:
            spec.lead_label(hours)
    except InputError as error:
        raise wrong("lead_time", expected, repr(form["lead_time"])) from error
    return leads


def seeds_of(
    seed: int,
    samples: int,
    states: int,
    times: Times | None,
    drawn: bool,
    leads: tuple[float, ...] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Seeds of all members, ``[B][M]``.

    With valid times they are those of ``run-corrdiff`` and ``downscale``, each state's own; without, those
    of ``model(x, coords)``, the same for all states, as in the stock classes (``drawn``: the Taiwan class).
    Lead times in hours tell forecasts for one valid time apart, as there.
    """
    if times is not None:
        more = [()] * states if leads is None else [(round(hours * 3600),) for hours in leads]
        return tuple(
            tuple(member_seed(seed, time, m, *rest) for m in range(samples))
            for time, rest in zip(times, more, strict=True)
        )
    return (tuple((drawn_seeds if drawn else consecutive_seeds)(seed, samples)),) * states


def refuse_unknown(names: list[str]) -> None:
    """A field that is not known, or given twice, is a mistake: it would change nothing.

    Raises
    ------
    ServiceError
        422
    """
    for name in names:
        if name not in FIELDS:
            raise ServiceError(
                422, f"there is no field {name[:40]!r}; a request takes {', '.join(FIELDS)}", name[:40]
            )
        if names.count(name) > 1:
            raise wrong(name, "given once", f"it {names.count(name)} times")
