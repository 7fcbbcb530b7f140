"""Files that users bring: streams, and names that are no UTF-8."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdc.errors import SdcError
from sdc.files import checksum, explain_os_errors


def utf8_path(path: Path) -> Path:
    """A path to the same file for a library that takes names in UTF-8 alone: the path itself, if it is; else a link.

    Links last as long as the process.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        place = os.fsencode(path.absolute())
        link = Path(_links().name, f"{checksum(place)}{path.suffix}".encode(errors="replace").decode())
        with contextlib.suppress(FileExistsError):
            link.symlink_to(path.absolute())
        return link
    return path


@functools.cache
def _links() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sdc-")


@contextlib.contextmanager
def readable_twice(path: Path) -> Iterator[Path]:
    """Yields `path`; of a pipe or another stream, which can be read but once, a copy whose name says what it holds.

    Errors inside name the stream.
    """
    if path.is_file() or path.is_dir() or not path.exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sdc-") as folder:
        with explain_os_errors(path):
            content = path.read_bytes()
        copy = Path(folder, f"stream-{checksum(content)}{path.suffix}")
        copy.write_bytes(content)
        os.utime(copy, (0, 0))
        try:
            yield copy
        except SdcError as error:
            raise type(error)(str(error).replace(str(copy), str(path))) from error
