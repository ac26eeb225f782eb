# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: stock Earth2Studio against this package, in one process, on the same weights.

``corrdiff``   the command bench-corrdiff.py
``cases``      sizes, random weights and inputs, the same for everyone
``variants``   who is timed: "stock …" and "ours …" behind one interface
``stock``      the stock class for another grid, and its networks in another type
``measure``    one case: errors, interleaved times, rates, as rows
``rows``       one result
``timing``     interleaved rounds, medians, ratios per round, on the host's clock or a GPU's events
``counts``     FLOPs and memory traffic of a U-Net, per operator class
``roofline``   what the machine can do, measured, and how near a time comes to it
``operators``  the ten costliest operator classes, before and after
``report``     tables, JSON, and the tables of README.md
``kernels``    the command bench-kernels.py
``trials``     one kernel at one size: stock, reference, fused
``attention``  the command bench-attention.py
``dit``        the command bench-dit.py
``memory``     peak memory of a piece of work
``compression``, ``codecs``  the command bench-compression.py
``training``, ``recipes``    the command bench-training.py
``provenance`` machine, versions, settings, command
"""
