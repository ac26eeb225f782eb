# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""What every command shares: one line per error, and the exit status that belongs to it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from earth2_corrdiff.errors import InputError, UnavailableError

Args = TypeVar("Args")

INPUT_ERROR = 2  # as argparse
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
BROKEN_PIPE = 141  # 128 + SIGPIPE


class ArgumentParser(argparse.ArgumentParser):
    """An ``argparse`` parser whose errors are one line too: no usage text before the message."""

    def error(self, message: str) -> NoReturn:
        """Print the message as one line on stderr and exit with status 2."""
        self.exit(INPUT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run_command(name: str, function: Callable[[Args], object], args: Args, debug: bool = False) -> int:
    """Call ``function(args)`` and turn what it raises into an exit status.

    Parameters
    ----------
    name : str
        The command's name, in front of the error line.
    function : Callable
        The work; what it returns is ignored.
    args : object
        The one argument of `function`, normally the parsed command line.
    debug : bool
        Let an error of the user, too, pass through with its traceback.

    Returns
    -------
    int
        0; 2 after an `InputError`, 75 after one that may pass (`UnavailableError`); 130 after Ctrl-C, with
        what a `KeyboardInterrupt` says; 141 where the
        reader of stdout has gone. Anything else is a defect of this package and passes through.
    """
    try:
        function(args)
        sys.stdout.flush()
    except InputError as error:
        if debug:
            raise
        status = TRY_LATER if isinstance(error, UnavailableError) else INPUT_ERROR
        return _complain(name, f"error: {error}", status)
    except KeyboardInterrupt as interrupt:
        return _complain(name, ": ".join(["interrupted", *map(str, interrupt.args)]), INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _complain(name: str, message: str, status: int) -> int:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status


def share_cores() -> None:
    """Let idle threads of a parallel loop sleep instead of spin; call it before PyTorch is imported.

    With spinning threads, a neighbour that takes one core makes every loop wait for the scheduler: a
    forward pass of the demo's network took 50 times as long. On an idle machine nothing changes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def calm_bars() -> None:
    """Let progress bars of other libraries write little to a log file; call it before tqdm is imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
        os.environ.setdefault("TQDM_DELAY", "1")
