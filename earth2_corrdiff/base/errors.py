# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can put right: ``InputError`` and its kinds."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something that was asked for, or handed in, cannot be used.

    The message is one sentence that says what is wrong, what was got and what to do. The commands
    print it as one line and end with exit status 2.
    """


class MissingFileError(InputError, FileNotFoundError):
    """A package without one of its files; also a FileNotFoundError, as Earth2Studio's classes raise it."""


class MissingEntryError(InputError, KeyError):
    """A package or coordinates without an entry; also a KeyError, as Earth2Studio's classes raise it."""

    __str__ = Exception.__str__  # KeyError has its own: in quotation marks


class UnavailableError(InputError):
    """The same may work later: no network, an archive that is down, a time that is not published yet.

    The commands end with exit status 75 (EX_TEMPFAIL of sysexits.h), so that a schedule can try again.
    """


def renamed(error: InputError, text: str | None = None) -> InputError:
    """An error of the same kind, that which may pass or not, with another text; without its traceback."""
    kind = UnavailableError if isinstance(error, UnavailableError) else InputError
    return kind(str(error) if text is None else text)


class DamageError(InputError):
    """Something in a store is lost or has changed since it was written."""


class TakenError(InputError):
    """The path of a new store has one that another process has made."""


class MemberError(InputError):
    """Members that the model has made and that cannot be kept; the others of their block are written.

    Attributes
    ----------
    members : dict[int, str]
        Their numbers, and why
    """

    def __init__(self, members: dict[int, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(members.values())))
        self.members = members


class NoMemoryError(InputError):
    """One member alone does not fit the memory: no smaller batch is left to try."""


def first_line(error: BaseException, most: int = 400) -> str:
    """First line of another exception's text, to quote in one of ours; its class where it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= most else f"{line[:most]}…"


def listed(names: Sequence[str], most: int = 10, length: int = 60) -> str:
    """Some names for a message, each cut to a length, and the number of those left out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name)[:length] for name in names[:most]) + more
