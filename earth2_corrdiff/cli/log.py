# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The log of a command: what this package and its libraries log and warn, as one line each on stderr."""

from __future__ import annotations

import sys
import warnings

from earth2_corrdiff.cli.common import quiet_imports

ARCHIVES = (
    *("gfs", "arco", "ncar", "wb2", "cds", "cmip6", "hrrr", "mrms"),
    *("gfs_fx", "gefs_fx", "ifs_fx", "ifs_ens_fx"),
)
"""Sources that Earth2Studio fetches."""


class Log:
    """Log lines on stderr under the command's name, above a progress bar if there is one.

    Parameters
    ----------
    name : str
        The command's, in front of every line
    level : str, optional
        Least severe level that is shown
    debug : bool, optional
        True if every message is shown at once, with its time and module
    held : bool, optional
        True if lines wait for :meth:`release`: what is refused before that is one line
    """

    def __init__(self, name: str, level: str = "WARNING", debug: bool = False, held: bool = False) -> None:
        self.level = "DEBUG" if debug else level
        self.format = name + (": {time} {level.name} {name}: " if debug else ": {level.name}: ") + "{message}"
        self._waiting: list[str] | None = [] if held and not debug else None
        self.attach()
        import logging

        logging.basicConfig(stream=self, format=name + ": %(levelname)s: %(message)s")
        warnings.showwarning = lambda message, *about, **more: self.write(
            f"{name}: WARNING: {' '.join(str(message).split())}\n"
        )
        for kind in () if debug else (DeprecationWarning, FutureWarning):  # for authors of libraries
            warnings.simplefilter("ignore", kind)
        # Earth2Studio's import hides this, but not where filters are put back after it
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")

    def attach(self) -> None:
        """Take the place of all other sinks of loguru."""
        from loguru import logger

        logger.remove()
        # Without the values of variables in tracebacks: they may hold a key.
        logger.add(self, level=self.level, format=self.format, diagnose=False, backtrace=False)

    def import_earth2studio(self, *sources: str) -> None:
        """Import what replaces loguru's sinks when it is imported, and take their place again.

        The archives take seconds to import: they are left out where no source needs them. For each optional
        package that is missing Earth2Studio reads the source of the whole call stack, so this is imported
        from near its end.

        Parameters
        ----------
        *sources : str
            Names of the sources that will be used, like ``gfs`` or ``file:PATH``
        """
        from earth2_corrdiff.base.studio import load

        with quiet_imports():
            load("io", "models.auto", *(["data"] if any(map(is_archive, sources)) else []))
        self.attach()

    def write(self, line: str) -> None:
        """Show a line, or keep it until :meth:`release`."""
        from tqdm import tqdm

        if self._waiting is None:
            tqdm.write(line, file=sys.stderr, end="")
        else:
            self._waiting.append(line)

    def flush(self) -> None:
        """Do nothing: stderr keeps nothing back."""

    def release(self) -> None:
        """Show what was held back, and from now on every line at once."""
        lines, self._waiting = self._waiting or [], None
        for line in lines:
            self.write(line)


def is_archive(source: str) -> bool:
    """True if Earth2Studio fetches a source of this name: ``gfs``, ``gfs:DIR``, …"""
    return source.partition(":")[0] in ARCHIVES
