#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
#
# Two processes compute one run of the demo, as tasks of a job array do: a forecast of synthetic weather with
# three lead times and two coarse members, each of which becomes three members.
#
#     examples/two_processes.sh [OUTPUT]
#
# If a process dies, the same command computes what it has not written, as does any other number of tasks.
set -euo pipefail

output=${1:-outputs/two-processes.zarr}
root=$(cd "$(dirname "$0")/.." && pwd)
run=("${PYTHON:-$root/.venv/bin/python}" "$root/scripts/run-corrdiff.py")
what=(2024-07-24T12 --lead 0/12/6h --coarse-members 0-1 --samples 3 --steps 4 --demo --seed 0 --output "$output")

"${run[@]}" prepare "${what[@]}" --resume
"${run[@]}" "${what[@]}" --task 1/2 &
"${run[@]}" "${what[@]}" --task 2/2
wait
"${run[@]}" finish "$output"
