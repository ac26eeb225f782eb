# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""A client of the workflow ``corrdiff_downscaling`` in Earth2Studio's server, with Earth2Studio's own client.

``service.md`` beside this file says how to start the server. The ensemble stays there: what is read of it
here is fetched then.

    python examples/workflow_client.py http://127.0.0.1:8080 2024-07-24T12:00
"""

import sys
import time

import xarray as xr
from earth2studio.serve.client.client import Earth2StudioClient
from earth2studio.serve.client.e2client import RemoteEarth2Workflow
from earth2studio.serve.client.models import RequestStatus

ENDED = (RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.CANCELLED)


def follow(client: Earth2StudioClient, request: str, pause: float = 2.0) -> None:
    """Print how far a request is until it has ended."""
    said = ""
    while (status := client.get_request_status(request)).status not in ENDED:
        about = status.progress
        text = (
            f"{about.progress} ({about.current_step}/{about.total_steps})" if about else status.status.value
        )
        if text != said:
            print(text, flush=True)
        said = text
        time.sleep(pause)


def main(
    url: str = "http://127.0.0.1:8080", when: str = "2024-07-24T12:00", pause: float = 2.0
) -> xr.Dataset:
    """Ask for two members of one time, wait, and look at the wind."""
    workflow = RemoteEarth2Workflow(url, "corrdiff_downscaling", device="cpu")
    result = workflow(start_time=[when], number_of_samples=2, seed=0)
    print(f"request {result.execution_id}")
    follow(workflow.client, result.execution_id, pause)

    ds = result.as_dataset()  # a Zarr store over HTTP, read lazily; raises what made the request fail
    wind = (ds.u10m**2 + ds.v10m**2) ** 0.5
    print(ds.attrs["title"])
    for sample in ds.sample.values:
        print(f"member {sample}: strongest wind {float(wind.sel(sample=sample).max()):.1f} m/s")
    return ds


if __name__ == "__main__":
    main(*sys.argv[1:3])
