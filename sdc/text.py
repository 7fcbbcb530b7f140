"""Text that people bring: the lines of a file in any Unicode encoding, and names in the order people expect."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sdc.errors import SdcError

# The longer mark first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAVED = re.compile(r"[+-]?[0-9]\.[0-9]{18}e[+-][0-9]{2,3}")
_EXACT = 2**53  # from here on a float stands for several whole numbers


def text_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a text file, without their ends, read one by one; a stream such as `<(...)` will do.

    UTF-8, or what a byte order mark says (UTF-16 and UTF-32, as Windows writes them). Lines end with LF, CR LF or CR;
    other separators, such as U+2028, belong to a line.

    Args:
        errors: what becomes of bytes that are no such text: "surrogateescape" keeps them, as Python does in file names.

    Raises:
        SdcError: the file cannot be read, or is no such text.
    """
    number = 0
    try:
        with open(path, "rb") as file:
            encoding = next((name for mark, name in _MARKS.items() if file.peek(4)[:4].startswith(mark)), "utf-8")
            for line in io.TextIOWrapper(file, encoding, errors):
                number += 1
                yield line.removesuffix("\n")
    except UnicodeError as error:
        where = f" after line {number}" if number else ""
        reason = getattr(error, "reason", error)
        raise SdcError(f"{path} is no UTF-8 text{where} ({reason}): save it as UTF-8") from error
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}") from error


def whole_texts(lines: Iterable[str]) -> list[str]:
    """The lines; where all are whole numbers as `numpy.savetxt` writes them (1.700000000000000000e+01), those (17)."""
    texts = list(lines)
    if not texts or not all(_SAVED.fullmatch(text) for text in texts):
        return texts
    numbers = [float(text) for text in texts]
    exact = all(number.is_integer() and abs(number) < _EXACT for number in numbers)
    return [str(int(number)) for number in numbers] if exact else texts


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """A key that sorts names as people count: img2 before img10."""
    parts: list[str | tuple[int, str]] = [*re.split(r"([0-9]+)", name)]
    for place in range(1, len(parts), 2):
        digits = str(parts[place]).lstrip("0")
        parts[place] = len(digits), digits  # int() refuses more than some thousand digits
    return parts, name
