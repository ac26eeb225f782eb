# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A client of the service: an array goes out, and members come back one by one as they are done.

The request is that of the documented CorrDiff NIM, so that a program for the one runs with the other. In one
terminal ``serve-corrdiff --package demo``, in another

    python examples/infer_client.py http://127.0.0.1:8000 members.nc
"""

import argparse
import io
import tarfile
import time

import numpy as np
import requests
import xarray as xr

from earth2_corrdiff import demo

TIME = "2024-07-24T12:00"
FIELDS = {"samples": 4, "steps": 12, "seed": 0, "time": TIME}  # with a time: the members of run-corrdiff


def wait_until_ready(url: str, seconds: float = 300) -> None:
    """Loading a model takes a while, and the service says so with 503."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if requests.get(f"{url}/v1/health/ready", timeout=10).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(1)
    raise SystemExit(f"{url} is not ready after {seconds:g} seconds")


def get_array(url: str, path: str) -> np.ndarray:
    """A npy file of the service."""
    answer = requests.get(url + path, timeout=30)
    answer.raise_for_status()
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def infer(url: str, coarse: np.ndarray, **fields: object):
    """Yield ``(sample, state), array [variable, H, W]`` for ``coarse [batch, variable, lat, lon]``."""
    file = io.BytesIO()
    np.save(file, coarse.astype(np.float32))
    answer = requests.post(
        f"{url}/v1/infer",
        data=fields,
        files={"input_array": ("input.npy", file.getvalue())},
        headers={"accept": "application/x-tar"},
        stream=True,
        timeout=(10, 600),  # seconds to connect, and between two members
    )
    if answer.status_code != 200:
        raise SystemExit(f"{answer.status_code}: {answer.text[:2000]}")
    # Where the service has to break off, the answer ends before its Content-Length: an exception here.
    with answer, tarfile.open(fileobj=answer.raw, mode="r|") as tar:
        for member in tar:
            sample, state = (int(part) for part in member.name.removesuffix(".npy").split("_"))
            values = np.load(io.BytesIO(tar.extractfile(member).read()), allow_pickle=False)
            yield (sample, state), values[0, 0]


def main(url: str = "http://127.0.0.1:8000", output: str = "members.nc") -> None:
    """Ask what the model takes, send it, and write the ensemble with its coordinates."""
    wait_until_ready(url)
    about = requests.get(f"{url}/v1/metadata", timeout=30).json()
    names = [variable["name"] for variable in about["input"]["variables"]]
    print(f"{about['package']['name']} on {about['device']} takes {', '.join(names)}")

    # Any Earth2Studio data source would do, cut out on the model's grid; this one is synthetic.
    weather = demo.DemoWeather()(np.array([TIME], dtype="datetime64[ns]"), names)
    lat, lon = (get_array(url, about["input"]["grid"][axis]) for axis in ("lat", "lon"))
    coarse = weather.sel(lat=lat, lon=lon, method="nearest").values

    start, members = time.perf_counter(), {}
    for (sample, state), values in infer(url, coarse, **FIELDS):
        members[sample] = values
        print(f"sample {sample} of state {state} after {time.perf_counter() - start:.1f} s")

    lat, lon = (get_array(url, about["output"]["grid"][axis]) for axis in ("lat", "lon"))
    data = np.stack([members[sample] for sample in sorted(members)])
    fields = {
        variable.pop("name"): (("sample", "y", "x"), data[:, i], variable)
        for i, variable in enumerate(about["output"]["variables"])
    }
    dims = ("y", "x") if lat.ndim == 2 else None
    coords = {"lat": (dims or "y", lat), "lon": (dims or "x", lon)}
    xr.Dataset(fields, coords, attrs={"time": TIME, "seed": FIELDS["seed"]}).to_netcdf(output)
    print(f"wrote {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Ask a service of serve-corrdiff for an ensemble, as NetCDF."
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument(
        "output", nargs="?", default="members.nc", help="file to write (default: %(default)s)"
    )
    arguments = parser.parse_args()
    main(arguments.url.rstrip("/"), arguments.output)
