# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a job as launchers number them, and where they meet."""

from __future__ import annotations

import pytest

from earth2_corrdiff import InputError
from earth2_corrdiff.base.processes import Processes, in_array, launched


def test_what_launchers_say() -> None:
    assert launched({}) == Processes()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert launched(torchrun) == Processes(3, 8, 1, 2)
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1"}
    assert launched({**slurm, "SLURM_STEP_ID": "0"}) == Processes(5, 6, 1)
    assert launched(slurm) == Processes()  # in a batch script, but not started by srun
    assert launched({**slurm, "SLURM_STEP_ID": "0", **torchrun}) == Processes(3, 8, 1, 2)
    step = {**slurm, "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "8"}  # of an allocation of 6
    assert launched(step) == Processes(5, 8, 1)
    assert launched({**step, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Processes(0, 1, 1)
    for shell in ("4294967290", "4294967291"):  # the interactive step, the batch script
        assert launched({**slurm, "SLURM_STEP_ID": shell}) == Processes()
    with pytest.raises(InputError, match="SLURM_STEP_ID=x is not a valid number of the launcher; unset it"):
        launched({**slurm, "SLURM_STEP_ID": "x"})
    for wrong in ({"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "0"}):
        with pytest.raises(InputError, match="are no launcher's; unset them"):
            launched(wrong)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node7", "node7"), ("node[03-07,11],x2", "node03"), ("a-1,b-2", "a-1"), ("gpu[5,7]", "gpu5")]
    + [("rack[1-2]n[03-04].example", "rack1n03.example"), ("r[1,2]n7,x", "r1n7")],
)
def test_where_the_processes_of_srun_meet(nodes: str, host: str) -> None:
    from earth2_corrdiff.base.processes import _address

    environ = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "2"}
    assert _address(environ) == (host, 15000 + 123458 % 15000)
    assert _address({**environ, "MASTER_ADDR": "here", "MASTER_PORT": "29500"}) == ("here", 29500)
    with pytest.raises(InputError, match="MASTER_PORT=http is not a valid number"):
        _address({**environ, "MASTER_PORT": "http"})


def test_arrays_and_indexed_jobs() -> None:
    def array(index: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
        values = {"ID": index, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
        return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}

    assert in_array({}) == Processes()
    assert in_array(array(0, 0, 7, 1, 8)) == Processes(0, 8)
    assert in_array(array(9, 1, 13, 4, 4)) == Processes(2, 4)
    assert in_array(array(5, 5, 5, 1, 1)) == Processes()  # one that failed, once more: all that is missing
    with pytest.raises(InputError, match="the array 1 to 9 has 3 tasks, with gaps; give --task I/N"):
        in_array(array(4, 1, 9, 1, 3))
    indexed = {"JOB_COMPLETION_INDEX": "2"}
    assert in_array({**indexed, "JOB_COMPLETIONS": "3"}) == Processes(2, 3)
    with pytest.raises(InputError, match="JOB_COMPLETIONS is not set; set it to the job's completions"):
        in_array(indexed)
    with pytest.raises(InputError, match="the launcher's index 2 is not one of 2"):
        in_array({**indexed, "JOB_COMPLETIONS": "2"})
