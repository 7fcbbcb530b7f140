"""Errors that a user sees as one line, and the log they go to."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

log = logging.getLogger("sdc")


class SdcError(Exception):
    """A fault of the user's data or environment. Its message is one line: what, where, expected, what to do."""

    exit_code = 1


class UsageError(SdcError):
    """A fault of the request itself: an unknown name, settings that differ, a bad combination."""

    exit_code = 2


def unknown_name_error(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`, with the nearest one."""
    names = sorted(known)
    return UsageError(f"unknown {kind} {name!r}: {did_you_mean(name, names)}known: {', '.join(names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text "did you mean …? " with the nearest of `known`, or nothing where none is like `name`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
