#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
#
# Two processes share one run of the demo: a forecast of synthetic weather with three lead times and two
# coarse members, three members of each. Where there are GPUs each process takes one. No network is needed.
#
#     examples/two_processes.sh [OUTPUT]
#
# With srun it is the same: srun --ntasks 8 --gpus-per-task 1 python scripts/run-corrdiff.py …
# If a process dies, --resume goes on with what is missing, with any number of processes.
set -euo pipefail

output=${1:-outputs/two-processes.zarr}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}

"$python" -m torch.distributed.run --standalone --nproc-per-node 2 "$root/scripts/run-corrdiff.py" \
    2024-07-24T12 --lead 0/12/6h --coarse-members 0-1 --samples 3 --steps 4 --demo --seed 0 \
    --output "$output" --resume

"$python" - "$output" <<'PYTHON'
import sys

import xarray as xr

ds = xr.open_zarr(sys.argv[1])
print(ds.t2m)
print("spread of the temperature at 2 m in K, by lead time:")
print(ds.t2m.std(("ensemble", "sample")).mean(("time", "ilat", "ilon")).to_series())
PYTHON
