"""Errors that a user sees as one line, and the log they go to."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

log = logging.getLogger("sdc")


class SdcError(Exception):
    """A user's data or environment is not as it must be. One line: what, where, expected, what to do."""

    exit_code = 1


class UsageError(SdcError):
    """The request itself does not fit: an unknown name, settings that differ, a bad combination."""

    exit_code = 2


def unknown_name_error(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`, with the nearest one."""
    names = sorted(known)
    return UsageError(f"unknown {kind} {name!r}: {did_you_mean(name, names)}known: {', '.join(names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question for the nearest of `known` with a space behind it, or nothing where none is like `name`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
