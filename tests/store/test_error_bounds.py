# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""``--compress``: what can be asked for, and that every bound is kept or refused."""

from __future__ import annotations

import warnings

import numcodecs.registry
import numpy as np
import pytest
import zarr

from earth2_corrdiff import InputError
from earth2_corrdiff.base.variables import cf_attributes
from earth2_corrdiff.store.arrays import storage
from earth2_corrdiff.store.error_bounds import BOUNDS, LEAST, Bound, Compression, as_text, largest_error

# variable: mean, standard deviation, a bound
KINDS = {
    "t2m": (297.0, 6.0, 0.02),
    "u10m": (-2.0, 7.0, 0.02),
    "mrr": (5.0, 10.0, 0.15),
    "sp": (98000.0, 3000.0, 2.0),
    "z500": (57500.0, 600.0, 1.0),
    "q850": (0.01, 0.003, 1e-5),
    "tp": (3e-4, 2e-3, 2e-5),
    "r850": (60.0, 30.0, 0.2),
    "tcwv": (45.0, 15.0, 0.02),
    "blh": (700.0, 400.0, 0.5),
    "tke_l38": (0.5, 0.8, 0.01),
    "aswdir_s": (200.0, 150.0, 0.5),
    "tcc": (0.6, 0.3, 0.002),
    "w500": (0.0, 0.3, 0.002),
    "tpf": (3e-5, 1e-4, 5e-6),
    "tprate": (0.1, 0.5, 0.02),
}


def asked(text: str) -> Compression:
    compress = Compression.parse(text)
    assert compress is not None
    return compress


def bounds_of(text: str, **kinds: tuple[float, float]) -> dict[str, Bound]:
    names = list(kinds)
    return asked(text).of(names, [kinds[n][0] for n in names], [kinds[n][1] for n in names])


def kept(bound: Bound, field: np.ndarray) -> np.ndarray:
    """A field through the codecs of a store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(
            zarr.storage.MemoryStore(), shape=field.shape, chunks=field.shape, dtype="f4", **storage(bound)
        )
        array[...] = field
        read: np.ndarray = array[...]
    return read


def weather(mean: float, spread: float, seed: int = 0) -> np.ndarray:
    """Smooth and rough, out to ten standard deviations, ``[13, 29]`` float32."""
    rng = np.random.default_rng(seed)
    field = mean + spread * (rng.normal(size=(13, 29)).cumsum(1) / 5 + 0.01 * rng.normal(size=(13, 29)))
    field[0, :2] = mean - 10 * spread, mean + 10 * spread
    field[1, :3] = 0.0, mean, -0.0
    return field.astype(np.float32)


# what is asked for


def test_what_can_be_asked_for() -> None:
    assert Compression.parse("lossless") is None
    assert asked("bounded") == Compression((), True)
    assert asked(" t2m = 0.05, mrr=5e-1") == Compression((("t2m", 0.05), ("mrr", 0.5)), False)
    assert asked("bounded,mrr=1") == Compression((("mrr", 1.0),), True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--compress takes lossless, bounded, or bounds like t2m=0.05,mrr=0.5, got ''"),
        ("lossy", "got 'lossy'"),
        ("lossless,t2m=1", "got 'lossless,t2m=1'"),
        ("t2m=0.05,bounded", "got 't2m=0.05,bounded'"),
        ("t2m=0.05,", "got 't2m=0.05,'"),
        ("t2m=small", "the bound of t2m must be a positive number in its units, got 'small'"),
        ("t2m=0", "the bound of t2m must be a positive"),
        ("t2m=-0.1", "the bound of t2m must be a positive"),
        ("t2m=nan", "the bound of t2m must be a positive"),
        ("t2m=inf", "the bound of t2m must be a positive"),
        ("t2m=1,mrr=1,t2m=2", "gives t2m two bounds"),
    ],
)
def test_what_cannot_be_asked_for(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        Compression.parse(text)


def test_bounds_of_the_outputs() -> None:
    """Defaults by unit; what is named goes before; what is not named has none, unless ``bounded``."""
    kinds = {name: kind[:2] for name, kind in KINDS.items()}
    every = bounds_of("bounded,q850=0.5", **kinds)
    assert {name: bound.absolute for name, bound in every.items()} == {
        **{name: bound for name, (*_, bound) in KINDS.items()},
        "q850": 0.5,
    }
    some = bounds_of("mrr=0.5,t2m=0.25", **kinds)
    assert as_text(some) == "t2m=0.25,mrr=0.5" and as_text({}) == "lossless"
    assert asked(as_text(some)).of(list(kinds), *zip(*kinds.values(), strict=True)) == some
    with pytest.raises(InputError, match=r"gives t2n a bound, but the outputs are .*; did you mean t2m\?"):
        bounds_of("t2n=0.1", **kinds)
    with pytest.raises(InputError, match="no default bound for albedo; give one .*: --compress bounded,albe"):
        bounds_of("bounded", **kinds, albedo=(0.3, 0.1))
    assert bounds_of("bounded,albedo=0.01", albedo=(0.3, 0.1))["albedo"].absolute == 0.01


# the bound


@pytest.mark.parametrize("blosc", [False, True], ids=["pcodec", "blosc"])
@pytest.mark.parametrize("name", KINDS)
def test_the_bound_is_kept(name: str, blosc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every kind of variable; what is read is what one computes by hand in float64."""
    if blosc:
        monkeypatch.delitem(numcodecs.registry.codec_registry, "pcodec")
    mean, spread, absolute = KINDS[name]
    for factor in (1, 7.3, 1000):
        bound = Bound.around(name, absolute * factor, mean, spread)
        field = weather(mean, spread)
        bound.check(name, field)
        read = kept(bound, field)
        assert 0 < largest_error(field, read) <= bound.absolute
        assert read[1, 0] == 0  # dry stays dry
        steps = np.rint(field * np.float32(bound.scale)).astype(np.float64)
        np.testing.assert_array_equal(read, (steps / bound.scale).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_smallest_bound_is_kept(name: str) -> None:
    """Two spacings of float32 at the largest number: below it is refused."""
    mean, spread, _ = KINDS[name]
    least = LEAST * float(np.spacing(np.float32(abs(mean) + 10 * spread)))
    bound = Bound.around(name, least, mean, spread)
    for seed in range(20):
        field = weather(mean, spread, seed)
        assert largest_error(field, kept(bound, field)) <= least
    with pytest.raises(InputError, match=f"float32 numbers of {name} around .* no bound of .* can be kept"):
        Bound.around(name, 0.99 * least, mean, spread)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, "t2m there is not finite everywhere"),
        (np.inf, "t2m there is not finite everywhere"),
        (-np.inf, "t2m there is not finite everywhere"),
        (3e38, "float32 numbers of t2m there at 3e.38 are .* apart"),
        (0.04 * 2.0**31, "float32 numbers of t2m there at"),  # the integers would overflow
        (
            2.0**20,
            "float32 numbers of t2m there at .* are 0.12 apart, so no bound of 0.02 .* of 0.25 or more",
        ),
    ],
)
def test_fields_that_cannot_be_kept(value: float, says: str) -> None:
    bound, field = Bound.around("t2m", 0.02, 297, 6), weather(297, 6)
    bound.check("t2m there", field)
    field[3, 5] = value
    with pytest.raises(InputError, match=says):
        bound.check("t2m there", field)


def test_the_defaults_have_known_units() -> None:
    """Each is the unit of a variable that is tested above."""
    assert {cf_attributes(name)["units"] for name in KINDS} == set(BOUNDS)
