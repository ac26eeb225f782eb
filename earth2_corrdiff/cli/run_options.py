# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The options of ``run-corrdiff``."""

from __future__ import annotations

from earth2_corrdiff.cli.common import (
    ArgumentParser,
    add_model_options,
    add_storage_options,
    add_truth_names,
    add_variant_options,
    command_parser,
)
from earth2_corrdiff.model.packages.names import NAMES as PACKAGES

NAME = "run-corrdiff"
EVERYWHERE = "the demo needs no network: --demo"
TIMES = "valid times, UTC, like 2024-07-24T12:00, or periods like 2024-07-20T00/2024-07-25T18/6h"
SOURCES = (
    "gfs, arco, ncar, wb2, cds, demo, cmip6:MODEL,SCENARIO,MEMBER, gfs:DIR (a mirror of NOAA's bucket), or "
    "file:PATH or file:URL (NetCDF, GRIB, Zarr; a folder, a pattern, or several with commas between); "
    "default: gfs, and arco for COSMO and HRRR; with --lead gfs_fx, gefs_fx, ifs_fx, ifs_ens_fx, demo_fx, "
    "gfs_fx:DIR, gefs_fx:DIR, file:…"
)


def run_parser() -> ArgumentParser:
    """The parser; values are checked when the run begins."""
    parser = command_parser(
        NAME,
        "Downscale global weather to kilometre scale with CorrDiff and write a Zarr store.",
        f"{EVERYWHERE}. Exit status: 0; 2 where something cannot be used; 75 where it may work later "
        "(no network, not published yet); 3 where some times failed with --keep-going; 130 after Ctrl-C. "
        "Tasks: run-corrdiff prepare TIME …, then run-corrdiff TIME … --task I/N for each I, then "
        "run-corrdiff finish STORE.",
        debug="show debug messages, and the traceback of an error",
    )
    add_input(parser)
    add = parser.add_argument
    add("--samples", type=int, metavar="N", help="ensemble members (default: the package's)")
    add("--steps", type=int, metavar="N", help="steps of the solver (default: the package's)")
    add("--solver", help="euler, heun, stochastic, dpmpp_2m or trigflow (default: the package's)")
    add("--seed", type=int, metavar="N", help="seed of the run (default: drawn, and recorded in the store)")
    add("--package", metavar="NAME", help=f"{PACKAGES} (default: taiwan)")
    add(
        "--model",
        metavar="MODULE:CLASS",
        help="another diagnostic model of Earth2Studio with a sample dimension, like "
        "earth2studio.models.dx:CorrDiffTaiwan, as it is, without acceleration; --package is its package "
        "(default: its own)",
    )
    add_model_options(parser)
    add(
        "--noise",
        help="where noise is drawn: host (default: the same members on every device) or device (as stock)",
    )
    add("--max-batch", type=int, metavar="N", help="most members in one network call (default: 1 on a CPU)")
    add(
        "--calibration",
        metavar="FILE",
        help="correct the mean and the spread of the members with a file of calibrate-corrdiff",
    )
    add(
        "--output",
        metavar="STORE",
        help="Zarr store to write, a path or a URL like s3://BUCKET/NAME.zarr (default: "
        "outputs/corrdiff-TIME.zarr)",
    )
    add(
        "--compress",
        default="lossless",
        metavar="HOW",
        help="lossless (default), or the largest error of each output in its units: bounded (a default for "
        "each), t2m=0.05,mrr=0.5, or bounded,mrr=0.5",
    )
    add(
        "--keep",
        default="all",
        metavar="WHAT",
        help="all (default), mean (and standard deviation of the members), or none, with --score",
    )
    add("--overwrite", action="store_true", help="replace an existing output, once the new one is complete")
    add(
        "--resume",
        action="store_true",
        help="go on with an interrupted run: compute only what is missing or damaged",
    )
    add("--check", action="store_true", help="with --resume: read every byte of what is there")
    add("--keep-going", action="store_true", help="report times that fail at the end, and do the others")
    add("--demo", action="store_true", help="synthetic weather and the embedded model: needs no network")
    add("--profile", action="store_true", help="write a trace of PyTorch's profiler beside the output")
    parser.add_config_options()
    add_variant_options(parser)
    _add_domain(parser)
    _add_distribution(parser)
    _add_scores(parser)
    return parser


def _add_scores(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("scores").add_argument
    add(
        "--score",
        metavar="TRUTH",
        help="score members as they are made against a truth, as verify-corrdiff --truth; the store keeps "
        "the sums, and verify-corrdiff STORE shows them again",
    )
    add_truth_names(add)
    add("--score-variables", metavar="NAMES", help="variables to score, like t2m,mrr (default: all)")


def add_input(parser: ArgumentParser) -> None:
    """Options of the coarse weather."""
    add = parser.add_argument
    add("times", nargs="+", metavar="TIME", help=f"{TIMES}; with --lead the times that forecasts start from")
    add(
        "--lead",
        metavar="LEADS",
        help="lead times of forecasts, like 24h, 0/48/6h (first, last, step) or 6,12",
    )
    add(
        "--coarse-members",
        metavar="N",
        help="members of a coarse ensemble, like 0-4: each is downscaled into --samples members of its own",
    )
    add("--source", metavar="NAME", help=SOURCES)
    add(
        "--rename",
        action="append",
        metavar="OWN=NAME",
        help="Earth2Studio's name of a variable of file:PATH, like wind_u=u10m,wind_v=v10m",
    )
    add_storage_options(parser)


def finish_parser() -> ArgumentParser:
    """The parser of ``run-corrdiff finish``."""
    parser = command_parser(
        f"{NAME} finish", "Complete the store of a run whose tasks are done, or say what it lacks (status 3)."
    )
    parser.add_argument("store", metavar="STORE", help="the store of the run, a path or URL")
    add_storage_options(parser)
    return parser


def _add_distribution(parser: ArgumentParser) -> None:
    """Options of runs beyond one process."""
    add = parser.add_argument_group("several machines").add_argument
    add(
        "--task",
        metavar="I/N",
        help="compute the part I of N of the run, like 1/3; all N fill one store, in any order (default: as "
        "numbered by torchrun, srun, a Slurm array, or by JOB_COMPLETION_INDEX and JOB_COMPLETIONS)",
    )
    add(
        "--workers", type=int, metavar="N", help="N processes on this machine, one per GPU, scheduled by Dask"
    )
    add(
        "--scheduler",
        metavar="WHERE",
        help="workers of a Dask cluster: address of its scheduler, or its file",
    )


def _add_domain(parser: ArgumentParser) -> None:
    """Options of patches and of memory."""
    add = parser.add_argument_group("large domains").add_argument
    add(
        "--patch",
        metavar="HxW",
        help="patches of the denoiser in points, like 448x448, or none (default: the package's)",
    )
    add(
        "--overlap",
        type=int,
        metavar="N",
        help="points that neighbours share (default: the package's)",
    )
    add(
        "--boundary",
        type=int,
        metavar="N",
        help="further points that they share, also beyond the edge of the domain (default: the package's)",
    )
    add("--window", help="how patches are averaged where they overlap: flat (default, as trained) or cosine")
    add(
        "--maps",
        metavar="WHERE",
        help="where the regression keeps its feature maps: auto (default: what fits the memory), device, "
        "host, or a folder with room for them",
    )
    add(
        "--shard-patches",
        action="store_true",
        help="processes of torchrun or srun share the patches of each member instead of the members: faster "
        "for one member, slower for many",
    )
