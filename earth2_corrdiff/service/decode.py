# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The fields of ``POST /v1/infer``, checked before anything is made of them: a npy file and a few numbers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Required

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationInfo
from typing_extensions import TypedDict

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.base.times import Times, parse_time, to_leads, to_times
from earth2_corrdiff.model.diffusion.noise import consecutive_seeds, drawn_seeds, member_seed
from earth2_corrdiff.model.diffusion.solvers import FEW_STEP, SOLVERS
from earth2_corrdiff.model.spec import CorrDiffSpec, Sampling
from earth2_corrdiff.service.errors import ServiceError, wrong
from earth2_corrdiff.service.settings import Settings
from earth2_corrdiff.sources.checks import check_gappy, check_input

ARRAY = "input_array"
SEEDS = 2**63  # seeds are of 64 bits with a sign: what PyTorch's generators take
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


def _whole_number(text: str, info: ValidationInfo[dict[str, range]]) -> int:
    """The number of a field within its limits, ``info.context``; pydantic would take 2.0 and 1_0, too."""
    name = str(info.field_name)
    among = info.context[name]
    if not _INTEGER.fullmatch(text.strip()) or int(text) not in among:
        limits = "of 64 bits" if name == "seed" else f"from {among[0]} to {among[-1]}"
        raise wrong(name, f"a whole number {limits}", repr(text))
    return int(text)


def _solver(text: str) -> str:
    if text not in (*SOLVERS, FEW_STEP):
        raise wrong("solver", f"one of {', '.join(SOLVERS)}", repr(text))
    return text


_Number = BeforeValidator(_whole_number)
_Solver = BeforeValidator(_solver)
ARRAY_TEXT = (
    "npy file, float32 `(batch, variables, h, w)` or `(1, batch, variables, h, w)`, in physical units; "
    "variables and grid as in /v1/metadata"
)
TIME_TEXT = (
    "valid time, UTC, as 2024-07-24T12:00; for several cases as many, with commas. With it the members are "
    "those of run-corrdiff for this seed and time"
)
LEAD_TEXT = (
    "lead time in hours, as 6 or 90min, one for each case; needed by packages that were trained with lead "
    "times (see /v1/metadata). `time` is the valid time all the same"
)


class InferForm(TypedDict, total=False):
    """The fields of a request, which all come as text; only the array is a file."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    input_array: Required[Annotated[bytes, Field(description=ARRAY_TEXT)]]
    samples: Annotated[int, Field(ge=1, description="members per case; by default 1"), _Number]
    steps: Annotated[int, Field(ge=1, description="of the solver; by default the package's"), _Number]
    seed: Annotated[int, Field(description="of the ensemble; by default drawn: see x-corrdiff-seed"), _Number]
    solver: Annotated[str, Field(description=f"{', '.join(SOLVERS)}; by default the package's"), _Solver]
    time: Annotated[str, Field(description=TIME_TEXT)]
    lead_time: Annotated[str, Field(description=LEAD_TEXT)]


FIELDS = tuple(InferForm.__annotations__)
FORM = TypeAdapter(InferForm)


def read_form(data: bytes, texts: Mapping[str, str], settings: Settings) -> InferForm:
    """The fields of a request.

    Raises
    ------
    ServiceError
        422 for what is not a whole number or not a solver, or out of the limits
    """
    limits = {
        "samples": range(1, settings.max_samples + 1),
        "steps": range(1, settings.max_steps + 1),
        "seed": range(-SEEDS, SEEDS),
    }
    return FORM.validate_python({ARRAY: data, **texts}, context=limits)


def read_array(data: bytes, spec: CorrDiffSpec, max_cases: int) -> NDArray[np.float32]:
    """The input of a request from the bytes of a npy file.

    Nothing is unpickled or decompressed, and no array is made before the header agrees with the model and
    with the number of bytes that follow it.

    Parameters
    ----------
    data : bytes
        A npy file: ``(batch, variables, h, w)``, with the hours before the variables where the package takes
        several; or with one more leading axis; float16, 32 or 64
    spec : CorrDiffSpec
        Its inputs and grid
    max_cases : int
        Most cases in a batch

    Returns
    -------
    np.ndarray
        ``[B, C, h, w]`` float32

    Raises
    ------
    ServiceError
        422, with what was expected and what was found
    """
    shape, fortran, dtype, start = _header(data)
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise wrong(ARRAY, "an array of float32 (float16 and float64 are converted)", dtype)
    want = spec.input_shape
    axes, n = ", ".join(map(str, want)), len(want)
    if len(shape) not in (n + 1, n + 2) or shape[-n:] != want:
        raise wrong(ARRAY, f"of shape (batch, {axes}) or (1, batch, {axes})", f"the shape {shape}")
    cases = math.prod(shape[:-n])
    if not 1 <= cases <= max_cases:
        raise wrong(ARRAY, f"a batch of 1 to {max_cases} cases", cases)
    size = math.prod(shape) * dtype.itemsize
    if len(data) - start != size:
        raise wrong(ARRAY, f"a npy file with {size} bytes after its header", f"{len(data) - start}")
    values = np.frombuffer(data, dtype, offset=start)
    values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    with np.errstate(over="ignore"):  # infinite then, and refused below
        result = np.array(values, dtype=np.float32, order="C").reshape(-1, *want)
    fields = {name: result[..., c, :, :] for c, name in enumerate(spec.inputs.names)}
    whole = spec.whole_inputs
    bad = [n for n, x in fields.items() if np.isinf(x).any() or (n in whole and np.isnan(x).any())]
    if bad:
        raise wrong(ARRAY, "finite everywhere", f"NaN or infinity in {', '.join(bad)}")
    return result


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and dtype of a npy file, and the position of its values."""
    expected = "a npy file of plain numbers, as numpy.save writes it"
    if data[:2] == b"PK":
        raise wrong(ARRAY, expected, "a zip file (a npz?)")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _HEADERS[version](file)
    except Exception as error:  # whatever a hostile header brings about in its parser
        raise wrong(ARRAY, expected, f"another file ({len(data)} bytes)") from error
    if dtype.hasobject:
        raise wrong(ARRAY, expected, "pickled objects")
    if any(type(length) is not int or length < 0 for length in shape):  # True counts as 1, and -1 as any
        raise wrong(ARRAY, expected, f"the shape {shape}")
    return shape, fortran, dtype, file.tell()


def check_weather(values: NDArray[np.float32], spec: CorrDiffSpec, times: Times | None = None) -> None:
    """Refuse fields that are not weather, as for every other source: wrong units, marks of missing values.

    Parameters
    ----------
    values : np.ndarray
        ``[B, C, h, w]``, or of several hours ``[B, L, C, h, w]``
    spec : CorrDiffSpec
        Its inputs
    times : Times | None, optional
        Valid times of the cases, for the message

    Raises
    ------
    ServiceError
        422 with the first variable that is wrong, its values, and what is expected
    """
    expected = "weather in the units of /v1/metadata"
    try:
        whole = [c for c, name in enumerate(spec.inputs.names) if name in spec.whole_inputs]
        check_input(values[..., whole, :, :], spec.whole_inputs, "the request", times)
        for c, name in enumerate(spec.inputs.names if spec.missing_inputs else ()):
            for case in values:
                check_gappy(case[..., c, :, :], name, "the request")
    except InputError as error:
        text = str(error).removeprefix("the input from the request").lstrip()
        raise ServiceError(422, f"{ARRAY} must be {expected}; {text}", ARRAY, expected) from None


def read_sampling(form: InferForm, default: Sampling) -> Sampling:
    """The default sampling with the steps and solver of a request; errors as :func:`sampling_of`."""
    return sampling_of(default, form.get("solver", default.solver), form.get("steps", default.steps))


def sampling_of(default: Sampling, solver: str, steps: int) -> Sampling:
    """The default sampling with another solver and other steps.

    Raises
    ------
    ServiceError
        422 where the package's network was not trained for it
    """
    if solver not in default.solvers:
        raise wrong("solver", f"one of {', '.join(default.solvers)} for this package", repr(solver))
    try:
        return replace(default, solver=solver, steps=steps)
    except InputError as error:
        raise ServiceError(422, str(error), "steps", "fewer steps") from None


def read_times(text: str | None, cases: int, needed: bool = False) -> Times | None:
    """Valid times of the cases; None where the request has none.

    Raises
    ------
    ServiceError
        422 for what is not a time, where they are not as many as the cases, or where the package needs them
    """
    expected = f"{cases} valid time{'s' * (cases > 1)} (UTC, as 2024-07-24T12:00; commas between several)"
    if text is None:
        if needed:
            raise wrong("time", expected, "nothing")
        return None
    texts = _one_for_each_case("time", text, cases, expected)
    try:
        return to_times([parse_time(part) for part in texts])
    except InputError as error:
        raise wrong("time", expected, repr(text)) from error


def _one_for_each_case(name: str, text: str, cases: int, expected: str) -> list[str]:
    """The parts of a field, counted before anything is made of them: a period could have a million."""
    parts = text.split(",", cases)
    if any("/" in part for part in parts):
        raise wrong(name, expected, "a period")
    if len(parts) != cases:
        raise wrong(name, expected, text.count(",") + 1)
    return parts


def read_leads(
    text: str | None, cases: int, times: Times | None, spec: CorrDiffSpec
) -> tuple[float, ...] | None:
    """Lead times of the cases in hours; None where the request has none and the package needs none.

    Raises
    ------
    ServiceError
        422 for what is not a lead time, for one that the package was not trained with, where they are not
        as many as the cases, or where they would change nothing
    """
    known = ", ".join(f"{hours:g}" for hours in spec.lead_time_hours)
    which = f", one of {known} h" if known else ""
    expected = f"{cases} lead time{'s' * (cases > 1)} (hours, as 6 or 90min; commas between several){which}"
    if text is None:
        if spec.lead_time_hours:
            raise wrong("lead_time", expected, "nothing")
        return None
    if times is None and not spec.lead_time_hours:
        needs = "given with a time, as this package was trained without lead times"
        raise wrong("lead_time", needs, "a lead time alone, which would change nothing")
    texts = _one_for_each_case("lead_time", text, cases, expected)
    try:
        leads = tuple(float(to_leads(part)[0] / np.timedelta64(1, "h")) for part in texts)
        for hours in leads:
            spec.lead_label(hours)
    except InputError as error:
        raise wrong("lead_time", expected, repr(text)) from error
    return leads


def seeds_of(
    seed: int,
    samples: int,
    cases: int,
    times: Times | None,
    drawn: bool,
    leads: tuple[float, ...] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Seeds of all members, ``[B][M]``.

    With valid times they are those of ``run-corrdiff`` and ``downscale``, for each case its own; without,
    those of ``model(x, coords)``, the same for all cases, as in the stock classes (``drawn``: the Taiwan
    class). Lead times in hours give forecasts for one valid time different seeds, as there.
    """
    if times is None:
        return (tuple((drawn_seeds if drawn else consecutive_seeds)(seed, samples)),) * cases
    offsets = [()] * cases if leads is None else [(round(hours * 3600),) for hours in leads]
    return tuple(
        tuple(member_seed(seed, time, member, *offset) for member in range(samples))
        for time, offset in zip(times, offsets, strict=True)
    )


def check_names(names: list[str]) -> None:
    """Refuse a field that is unknown or given twice: it would change nothing.

    Raises
    ------
    ServiceError
        422
    """
    for name in names:
        if name not in FIELDS:
            text = f"there is no field {name[:40]!r}; a request takes {', '.join(FIELDS)}"
            raise ServiceError(422, text, name[:40])
        if names.count(name) > 1:
            raise wrong(name, "given once", f"it {names.count(name)} times")
