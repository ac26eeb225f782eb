# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What ``run-corrdiff`` says on stderr: its own log, and what libraries log and warn."""

from __future__ import annotations

import sys


class HeldLog:
    """Log lines on stderr, held back until the run has started: what is refused before that is one line."""

    def __init__(self, held: bool) -> None:
        self.lines: list[str] | None = [] if held else None

    def write(self, line: str) -> None:
        """Take what a logger says: this is the file that it writes to."""
        from tqdm import tqdm

        if self.lines is None:
            tqdm.write(line, file=sys.stderr, end="")
        else:
            self.lines.append(line)

    def release(self) -> None:
        """Show what was held back, and from now on every line at once."""
        lines, self.lines = self.lines or [], None
        for line in lines:
            self.write(line)


def configure_log(name: str, debug: bool, first: bool = True) -> HeldLog:
    """One place for all that the libraries log, after Earth2Studio's imports have set up theirs.

    Parameters
    ----------
    name : str
        The command's, in front of every line
    debug : bool
        Show every message at once
    first : bool, optional
        Whether this is the process that speaks for its job: the others only warn
    """
    import logging

    import earth2studio.data
    import earth2studio.io  # noqa: F401
    from loguru import logger

    log = HeldLog(held=not debug)
    logging.basicConfig(stream=log, format=name + ": %(levelname)s: %(message)s")
    logging.captureWarnings(True)
    logger.remove()
    logger.add(
        log,
        level="DEBUG" if debug else "INFO" if first else "WARNING",
        format=name + ": {level.name}: {message}" if not debug else "{time} {level.name} {name}: {message}",
    )
    return log
