"""The command `sdc`, and how errors end it. Its commands are in sdc/commands."""

from __future__ import annotations

import codecs
import io
import logging
import signal
import sys
from types import FrameType
from typing import Any

import click

from sdc._version import __version__
from sdc.commands import LazyGroup
from sdc.errors import SdcError, log

_LIKE = {
    "─": "-", "│": "|", "└": "+", "┘": "+", "▶": ">", "◀": "<", "→": "->", "×": "x", "…": "...", "·": ".",
    "–": "-", "—": "-", "−": "-", "’": "'", "≤": "<=", "≥": ">=", "±": "+-",
}  # fmt: skip


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sdc")
def cli() -> None:
    """Turn embeddings into compact binary codes and search them.

    \b
    images ─ extract ─▶ feats.h5 ─ train ─▶ model.safetensors
    vectors ─ import ─┘    └─────── encode ◀──────┘
                                      └─▶ db.bin ─ search, evaluate

    Each command reads what the one before it wrote, by these names unless told otherwise.
    """


def main() -> None:
    """The entry point: turns errors into one line and an exit code (1 data, 2 usage, 130 interrupted)."""
    _allow_any_character(sys.stdout, sys.stderr)
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else started so as to ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        cli.main(prog_name="sdc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SdcError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(1)
    except MemoryError:
        _fail("out of memory", 1)
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error) and "out of memory" not in str(error):
            raise
        _fail("out of memory: a smaller --batch-size, --hidden or number of --bits takes less", 1)
    except PermissionError as error:
        _fail(f"no permission for {error.filename}: get it, or name another file", 1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. A plain KeyboardInterrupt that passes through exec(), as in an import of dataclasses, makes Python
    end `python -m sdc` by the signal itself, whatever exit code was asked for."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def _fail(message: str, code: int) -> None:
    print("sdc: error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)


def _allow_any_character(*streams: Any) -> None:
    """Has characters that the encoding of a terminal or pipe lacks written as others: in place of an error.

    Signs of drawing and the like become similar ones, all others their numbers, such as \\u65e5. In UTF-8 the bytes of
    file names that are no UTF-8 are written as they are.
    """
    codecs.register_error("sdc", _spelled)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sdc")


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if error.encoding.lower().replace("-", "") == "utf8":
        return text.encode("utf-8", "surrogateescape"), error.end
    return "".join(_LIKE.get(sign, ascii(sign)[1:-1]) for sign in text), error.end
