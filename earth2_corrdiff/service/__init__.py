# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP service of a model, for the command ``serve-corrdiff``; needs the extra ``serve``.

=============================  =======================================================================
`app`, `settings`, `errors`    the application, its limits, its refusals (read first)
`engine`, `queue`              one thread that owns the device; turns of requests and jobs
`infer`, `decode`, `forms`     ``/v1/infer``: an array in, a tar of members out
`jobs_api`                     ``/v1/downscale``: routes of jobs, from a time and a source to an ensemble
`job_request`, `job_runner`    the check of an order; its execution
`job`, `jobs`                  one job; all of them and their folders
`job_fields`, `job_overview`   fields of a finished job for the page; `mesh_geometry` has its lines
`status_api`, `metrics`        health, metadata, grids, counters
`pages`, ``page/``             the web page and the documentation
`security`, `connection`       keys, limits and deadlines of requests; of connections
`server`, `listening`          Uvicorn and its socket; `startup` answers probes before
`archives`, `bounded_threads`  tar and zip while they are sent; threads for slow work
=============================  =======================================================================
"""
