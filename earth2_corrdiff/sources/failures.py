# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of fetching, each in one sentence.

The libraries underneath (obstore, fsspec, zarr, pygrib, netCDF4, cdsapi) raise some twenty kinds of
exceptions, some of forty lines. They are sorted here: no network, no such data, no disk space, damaged.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from earth2_corrdiff.base.errors import InputError, UnavailableError, first_line
from earth2_corrdiff.base.times import time_text, to_times

DEFECTS = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError, MemoryError)
"""A defect in a program or a full memory, not bad input: they pass unchanged."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM}
OFFLINE = re.compile(
    r"dns error|lookup|name resolution|name or service|tcp connect|connect error|connection|sending request"
    r"|unreachable|timed? ?out|max retries",
    re.IGNORECASE,
)
DOWN = re.compile(r"\b(429|500|502|503|504)\b|slow ?down|service unavailable|bad gateway", re.IGNORECASE)
CLIENTS = {"obstore", "aiohttp", "requests", "urllib3", "botocore", "aiobotocore", "gcsfs"}
FINAL = {"PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "NotSupportedError"}
"""Errors of these libraries that stay as they are."""
MIRRORED = ("gfs", "gfs_fx", "gefs_fx")
PUBLISHED = np.timedelta64(10, "D")
"""After so long a missing time will not be published: ERA5T is five days late."""
LONGEST = 160


@contextmanager
def explained(name: str, time: Any) -> Iterator[None]:
    """Turn what a data source raises into an InputError that names the source, the time and a way out.

    Parameters
    ----------
    name : str
        The source as the user gave it
    time : Any
        The times that are being fetched
    """
    try:
        yield
    except (InputError, *DEFECTS):
        raise
    except Exception as error:
        kind = UnavailableError if passes(name, time, error) else InputError
        raise kind(f"could not fetch {_times(time)} from {name} ({_sentence(name, time, error)}") from error


def passes(name: str, time: Any, error: Exception) -> bool:
    """True if the same may work later: no network, an archive that is down, a time not published yet."""
    if _is_local(name) or (isinstance(error, OSError) and error.errno in NO_ROOM):
        return False
    if _absent(error):
        return _is_recent(time)
    return interrupted(error)


def interrupted(error: BaseException | None) -> bool:
    """True if a download failed for the network, or for a server that is down."""
    return isinstance(error, Exception) and (_offline(error) or _is_down(error))


def _is_down(error: Exception) -> bool:
    """True if an archive answers with an error: overloaded, under repair, cut off."""
    of_client = type(error).__module__.split(".")[0] in CLIENTS and type(error).__name__ not in FINAL
    return of_client or isinstance(error, EOFError) or bool(DOWN.search(_text(error)))


def _is_local(name: str) -> bool:
    return ":" in name


def _is_recent(time: Any) -> bool:
    """True if an archive may not have a time yet."""
    try:
        return bool((to_times(time) > np.datetime64("now") - PUBLISHED).any())
    except (InputError, TypeError):
        return False


def _sentence(name: str, time: Any, error: Exception) -> str:
    """The rest of the message, beginning inside its bracket."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        path = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}:{path}); free space, or point EARTH2STUDIO_CACHE to another folder"
    local = _is_local(name)
    if _absent(error):
        not_yet = "" if local or not _is_recent(time) else ", or does not have it yet: try again later"
        return f"{_reason(error)}); it lacks this time{not_yet}"
    if not local and _offline(error):
        return f"{_unreachable(error)}); without network use --demo or --source {_without_network(name)}"
    if not local and _is_down(error):
        return f"{_reason(error)}); try again later, or use another source"
    what = "copy" if local else "download"
    return f"{_reason(error)}); the data may be damaged or incomplete: {what} it again"


def _without_network(name: str) -> str:
    """The source of local files that replaces an archive."""
    kind = name.partition(" ")[0].rstrip(",")
    return f"{kind}:DIR" if kind in MIRRORED else "file:PATH"


def unreachable(error: BaseException | None) -> str | None:
    """The reason of a lost connection, as half a sentence; None for other errors."""
    return _unreachable(error) if isinstance(error, Exception) and _offline(error) else None


def _absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError"


def _offline(error: Exception) -> bool:
    return isinstance(error, ConnectionError | TimeoutError) or bool(OFFLINE.search(_text(error)))


def _text(error: Exception) -> str:
    """The text of an error, without the settings that obstore adds."""
    return re.sub(r"retry_timeout: \w+", "", f"{type(error).__name__}: {error}")


def _unreachable(error: Exception) -> str:
    text = _text(error)
    host = re.search(r"https?://([\w.\-]+)", text) or re.search(r"host[= ]+'?([\w.\-]+\.[\w\-]+)", text)
    where = f" to {host[1]}" if host else ""
    if re.search(r"dns error|lookup|name resolution|name or service", text, re.IGNORECASE):
        return f"no connection{where}: the name cannot be resolved"
    if isinstance(error, TimeoutError) or re.search(r"timed? ?out", text, re.IGNORECASE):
        return f"no answer{where} in time"
    return f"no connection{where}"


def _reason(error: Exception) -> str:
    text = first_line(error).split("retry_timeout")[-1].split(" - ")[-1]  # obstore: the reason comes last
    text = text.strip().rstrip(".:;")
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return text or type(error).__name__


def _times(time: Any) -> str:
    try:
        times = to_times(time)
    except (InputError, TypeError):
        return str(time)
    return time_text(times[0]) if times.size == 1 else f"{times.size} times from {time_text(times[0])}"
