"""Errors that a user sees as one line, and the log they go to."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

log = logging.getLogger("sdc")

LONGEST = 300  # characters of an error: more are not read


class SdcError(Exception):
    """A fault of the user's data or environment. Its message is one line: what, where, expected, what to do.

    A message of more than `LONGEST` characters is shortened: long words first (paths, names), then its middle.
    """

    exit_code = 1

    def __init__(self, message: object = "", *rest: object) -> None:
        super().__init__(_fitted(str(message)), *rest)


class UsageError(SdcError):
    """A fault of the request itself: an unknown name, settings that differ, a bad combination."""

    exit_code = 2


def unknown_name_error(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `known`, with the nearest one."""
    names = sorted(known)
    near = did_you_mean(name, names)
    return UsageError(f"unknown {kind} {shortened(name, 40)!r}: {near}known: {few(names, ', ', 200)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text "did you mean …? " with the nearest of `known`, or nothing where none is like `name`."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def shortened(text: str, most: int, head: int | None = None) -> str:
    """The text, without its middle where it has more than `most` characters; `head` of them are from its beginning."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2 if head is None else head
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def few(items: Iterable[object], separator: str = ", ", most: int = 120) -> str:
    """The first items in about `most` characters, and how many more there are: `a, b and 598 more`."""
    texts = [str(item) for item in items]
    shown: list[str] = []
    for text in texts:
        text = shortened(text, max(20, most // 2))
        if shown and sum(map(len, shown)) + len(separator) * len(shown) + len(text) > most:
            break
        shown.append(text)
    left = len(texts) - len(shown)
    return separator.join(shown) + (f" and {left} more" if left else "")


def _fitted(message: str) -> str:
    """A message of at most `LONGEST` characters: long words are cut before anything else is, addresses never.

    Of a path more is kept of its end, the name of the file.
    """
    for longest, mark in ((100, ""), (60, ""), (40, ""), (24, "/")):
        if len(message) <= LONGEST:
            return message
        words = message.split(" ")
        cut = [
            shortened(word, longest, longest // 3 if "/" in word else None)
            if mark in word and "://" not in word
            else word
            for word in words
        ]
        message = " ".join(cut)
    return shortened(message, LONGEST)
