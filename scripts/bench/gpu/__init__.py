# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU: right results, no waiting, and speed against stock and the roofline, in sections.

``command``     the command check-gpu.py
``plan``        which sections there are, in which order, with how much time
``runner``      runs sections in processes of their own and restarts what broke
``processes``   one such process
``record``      results of a section, written as they come, within its time
``meter``       times and memory within that time
``switches``    TF32, cuDNN's search, networks without drawn weights
``layers``      shapes of the norms and convolutions of the published network
``ceilings``    A: the card, and what its copies, products and convolutions reach
``kernels``     Bk: the fused kernels against float64
``correctness`` B: captured graphs, host waits, batches
``demo``        B: the demo package against the CPU
``candidates``  D: stock and this package, as steps and as ensembles
``steps``, ``ensembles``, ``profiles``  D: their times, errors and costliest kernels
``project_tests``  C: the project's tests that need a GPU
``domain``      E: a domain in patches, and its regression
``training``    F: training recipes
``compiled``    K: stock with torch.compile
``tiles``       G: tile sizes of the norm
``verdict``     what is wrong, and what was left out
``summary``     the results as short tables
"""
