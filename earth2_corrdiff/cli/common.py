# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Parser, exit status, error line and progress bar of every command."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from earth2_corrdiff.base.errors import InputError, UnavailableError
from earth2_corrdiff.base.object_path import storage_options

Args = TypeVar("Args")
Value = TypeVar("Value")

PACKAGES = ("earth2studio", "torch", "nvidia-physicsnemo", "numpy", "xarray", "zarr")
"""Packages whose version ``--version`` prints, where they are installed."""
REPLACING = "earth2_corrdiff.plain"
"""Name under which Python finds the replacement of characters."""
PLAIN = {
    **{"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": ".", "→": "->", "≥": ">=", "≤": "<="},
    **{"°": "deg", "±": "+/-", "²": "2", "³": "3", "µ": "u", "σ": "sigma", "’": "'", "“": '"', "”": '"'},
}
TRACEBACK = "show the traceback of an error"

INPUT_ERROR = 2  # as argparse
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
BROKEN_PIPE = 141  # 128 + SIGPIPE


class ArgumentParser(argparse.ArgumentParser):
    """An ``argparse`` parser with ``--version`` and errors of one line, without usage before them.

    Its output, and later that of its command, is readable on terminals of any encoding.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_argument(
            "--version", action=Versions, nargs=0, help="show the versions that matter and exit"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; ``--help``, ``--show-config`` and errors are printed from here."""
        print_anywhere()
        arguments = sys.argv[1:] if args is None else list(args)
        takes_file = "--config" in self._option_string_actions
        if takes_file:
            arguments = self._configured(arguments)
        found = super().parse_known_args(arguments, namespace)
        if takes_file and found[0].show_config:
            print(self._config_text(found[0]), end="", flush=True)
            self.exit(0)
        return found

    def add_config_options(self) -> None:
        """Options of a configuration file, whose keys are the names of all other options."""
        self.add_argument(
            "--config",
            metavar="FILE.yaml",
            help="read options from a file of lines like 'samples: 8'; the command line wins",
        )
        self.add_argument(
            "--show-config", action="store_true", help="print all options as such a file, and end"
        )

    def _keys(self) -> dict[str, argparse.Action]:
        """Options by their keys in a configuration file."""
        own = ("help", "version", "config", "show_config")
        return {a.dest.replace("_", "-"): a for a in self._actions if a.dest not in own}

    def _configured(self, arguments: list[str]) -> list[str]:
        """Take the values of a configuration file as defaults; the arguments that remain."""
        reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        reader.add_argument("--config")
        reader.add_argument("--show-config", action="store_true")
        known, _ = reader.parse_known_args(arguments)
        values: Mapping[str, Any] = {}
        if known.config is not None:
            from earth2_corrdiff.training.strict import read_yaml

            try:
                values = read_yaml(Path(known.config))
            except InputError as error:
                self.error(str(error))
        for key, value in values.items():
            self._set(str(key), value)
        given = {word.partition("=")[0] for word in arguments}
        for action in self._actions:
            if given & {*action.option_strings}:  # an option that is repeated would be added to these
                action.default = None if isinstance(action, argparse._AppendAction) else action.default
            if action.nargs == "+" and not action.option_strings and (known.show_config or action.default):
                action.nargs, action.required = "*", False
        return arguments

    def _set(self, key: str, value: Any) -> None:
        """Take a value as the default of an option."""
        action = self._keys().get(key.replace("_", "-"))
        if action is None:
            from earth2_corrdiff.training.strict import unknown

            self.error(f"--config: {unknown('', key, list(self._keys()))}")
        flag, several = action.nargs == 0, action.nargs == "+" or isinstance(action, argparse._AppendAction)
        if flag != isinstance(value, bool) or isinstance(value, dict):
            self.error(
                f"--config: the key {key} needs {'true or false' if flag else 'a value'}, got {value!r}"
            )
        words = [_word(part) for part in (value if isinstance(value, list) else [value])]
        action.default = value if flag else words if several else ",".join(words)
        action.required = False

    def _config_text(self, args: argparse.Namespace) -> str:
        """All options with their values, as a configuration file."""
        import yaml

        lines = []
        for key, action in self._keys().items():
            value = getattr(args, action.dest)
            value = value if value is None or isinstance(value, bool | int | float | list) else str(value)
            line = yaml.safe_dump({key: value}, width=10_000, allow_unicode=True)
            lines.append(line if value not in (None, []) else f"# {key}:\n")
        return "".join(lines)

    def error(self, message: str) -> NoReturn:
        """Print the message as one line on stderr and exit with status 2."""
        self.exit(INPUT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _word(value: Any) -> str:
    """A value of a YAML file as a command line has it: dates as ISO 8601."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


class Versions(argparse.Action):
    """Print one line with the versions of the command and of what it runs on, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> NoReturn:
        """Print the metadata of what is installed: nothing is imported."""
        own = _version("earth2-corrdiff") or "of a checkout that is not installed"
        found = {name: _version(name) for name in PACKAGES}
        others = [f"{name} {version}" for name, version in found.items() if version is not None]
        python = f"Python {platform.python_version()}"
        print(f"{parser.prog} {own} (earth2_corrdiff); {', '.join([*others, python])}", flush=True)
        parser.exit(0)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command_parser(
    name: str, description: str, epilog: str | None = None, debug: str = TRACEBACK
) -> ArgumentParser:
    """The parser of a command, with ``--debug``."""
    parser = ArgumentParser(prog=name, description=description, epilog=epilog)
    parser.add_argument("--debug", action="store_true", help=debug)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of the device and the arithmetic."""
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--precision", default="auto", help="auto (default: the fastest), fp32 (the reference), bf16 or fp16")
    add("--no-acceleration", action="store_true", help="stock arithmetic, operation by operation: slow")


def add_truth_names(add: Callable[..., object]) -> None:
    """The option of the names that variables have in a truth; ``add`` is a parser's ``add_argument``."""
    add(
        "--truth-name",
        action="append",
        default=[],
        metavar="NAME=TRUTH",
        help="what a variable is called in the truth, like mrr=refc; repeatable",
    )


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """The option for URLs of object stores."""
    parser.add_argument(
        "--storage-options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how to open s3://, gs:// and az:// URLs, like anon=true, endpoint_url=https://… or "
        "profile=NAME; repeatable (default: the environment's variables, and for S3 the profile of AWS)",
    )


def stored(args: argparse.Namespace) -> AbstractContextManager[None]:
    """With the storage options of a command's URLs."""
    return storage_options(pairs("--storage-options", args.storage_options, str))


def add_variant_options(parser: argparse.ArgumentParser) -> None:
    """Options of packages with several networks, or of domains of any size."""
    add = parser.add_argument_group("COSMO").add_argument
    add("--mode", help="diffusion (default), an ensemble, or mean, one smooth field")
    add(
        "--hub-heights",
        metavar="METRES",
        help="heights above ground of winds to add, from those of the model levels, like 100 or 100,150",
    )
    add = parser.add_argument_group("part of the output").add_argument
    add("--variables", metavar="NAMES", help="outputs to keep, like t2m,mrr (default: all)")
    add_region(add)


def add_region(add: Callable[..., object]) -> None:
    """The option ``--region``."""
    add(
        "--region",
        metavar="S,N,W,E",
        help="the cells of the domain that cover these latitudes and longitudes, like "
        "--region=47,55,5.5,15.5; what the networks need for them is computed: that region alone (COSMO), "
        "the patches around it (--patch), or everything",
    )


def entry_point(
    name: str,
    parser: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], object],
    prepare: Callable[[list[str]], list[str]] = list,
) -> Callable[[Sequence[str] | None], int]:
    """The ``main`` of a command: it parses its arguments, runs, and returns the exit status.

    Parameters
    ----------
    name : str
        The command's, in front of its error line
    parser : Callable
        Makes its parser, which has ``--debug``
    work : Callable
        Does what the parsed arguments ask for
    prepare : Callable, optional
        Changes the arguments before they are parsed
    """

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the command; return its exit status (0, 2 for unusable input, 130 after Ctrl-C)."""
        args = parser().parse_args(prepare(list(sys.argv[1:] if argv is None else argv)))
        return run_command(name, work, args, debug=args.debug)

    return main


def pairs(option: str, words: Sequence[str], convert: Callable[[str], Value]) -> dict[str, Value]:
    """``["a=1"]`` as ``{"a": convert("1")}``; `InputError` for anything else."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value:
            raise InputError(f"{option} takes NAME=VALUE, got {word!r}")
        try:
            found[name] = convert(value)
        except ValueError as error:
            raise InputError(f"{option} takes numbers after NAME=, got {word!r}") from error
    return found


def print_anywhere() -> None:
    """Let stdout and stderr replace characters that the terminal's encoding lacks, instead of failing."""
    codecs.register_error(REPLACING, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors=REPLACING)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Plain characters for those that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


def run_command(name: str, function: Callable[[Args], object], args: Args, debug: bool = False) -> int:
    """Call ``function(args)`` and turn what it raises into an exit status.

    Parameters
    ----------
    name : str
        The command's, in front of the error line
    function : Callable
        The work; a whole number that it returns is the exit status
    args : object
        The argument of `function`, normally the parsed command line
    debug : bool
        True if an error of the user, too, passes through with its traceback

    Returns
    -------
    int
        That of `function`, else 0; 2 after an `InputError`, 75 after one that may pass
        (`UnavailableError`); 130 after Ctrl-C, with the text of the `KeyboardInterrupt`; 141 where the reader
        of stdout has gone. Anything else is a defect of this package and passes through.
    """
    print_anywhere()
    share_cores()
    calm_bars()
    try:
        status = function(args)
        sys.stdout.flush()
    except InputError as error:
        if debug:
            raise
        return _complain(
            name, f"error: {error}", TRY_LATER if isinstance(error, UnavailableError) else INPUT_ERROR
        )
    except KeyboardInterrupt as interrupt:
        return _complain(name, ": ".join(["interrupted", *map(str, interrupt.args)]), INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status if type(status) is int else 0


def _complain(name: str, message: str, status: int) -> int:
    line = " ".join(message.split())
    shown = "".join(c if c.isprintable() else "?" for c in line)  # of strangers: no terminal's commands
    print(f"{name}: {shown}", file=sys.stderr, flush=True)
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


def progress_bar(*values: Any, **look: Any) -> Any:
    """A bar of ``tqdm`` that follows the terminal's width, and in a log file writes a line in 10 s."""
    from tqdm import tqdm

    return tqdm(*values, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 10, **look)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Imports of upstream packages without their warnings."""
    import numpy  # noqa: F401 - before the block: it ignores some warnings for good

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
