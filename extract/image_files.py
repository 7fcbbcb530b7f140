"""Image files: which files are images, by their endings or by how they begin, and how one is opened."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif", ".icns",
    ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx",
    ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm",
)  # fmt: skip
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
# Images that nothing here reads: they are listed, and left out when their turn comes.
UNREADABLE = (
    ".3fr", ".arw", ".cdr", ".cr2", ".cr3", ".dcm", ".djvu", ".dng", ".emf", ".eps", ".erf", ".exr",
    ".jxl", ".jxr", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".sr2", ".srw", ".svg",
    ".svgz", ".wdp", ".wmf", ".x3f", ".xcf",
)  # fmt: skip
# Files beside images whose beginnings are not looked at, since there are as many of them as images.
OTHERS = (
    ".aae", ".csv", ".db", ".doc", ".docx", ".gz", ".h5", ".hdf5", ".html", ".ini", ".json", ".jsonl", ".log", ".m4v",
    ".mat", ".md", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".parquet", ".pdf", ".pickle", ".pkl", ".pt", ".pth", ".py",
    ".safetensors", ".tar", ".tsv", ".txt", ".xml", ".xmp", ".yaml", ".yml", ".zip",
)  # fmt: skip
_HEIF_BRANDS = rb"heic|heix|heim|heis|hevc|hevx|hevm|hevs|mif1|mif2|msf1"
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0\0\0\0|RIFF.{4}WEBP|II\*\0|MM\0\*|8BPS\0|qoif|DDS |icns"
    rb"|\0\0\x01\0[^\0]\0.{3}\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\0\0\0\x0cJXL |P[1-6]\s+[0-9#]"
    rb"|.{4}ftyp(?:avif|avis|" + _HEIF_BRANDS + rb")",
    re.DOTALL,
)
_HEIF_FILE = re.compile(rb".{4}ftyp(?:" + _HEIF_BRANDS + rb")", re.DOTALL)
_LOOKED_AT = 16  # bytes at the beginning of a file
NO_HEIF = "HEIC and HEIF are read with pillow-heif: pip install 'sdc-hash[heif]'"


def is_image_file(path: Path) -> bool:
    """Whether a file is an image by its ending, or where that says nothing, by how it begins."""
    ending = path.suffix.lower()
    if ending in SUFFIXES or ending in UNREADABLE:
        return True
    if ending in OTHERS:
        return False
    try:
        with path.open("rb") as file:
            return _BEGINNINGS.match(file.read(_LOOKED_AT)) is not None
    except OSError:
        return False


@functools.cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def open_file(path: Path) -> Image:
    """An image file, not yet decoded.

    Raises:
        ValueError: the file is empty, or of a kind that is not read.
        Exception: whatever PIL raises for a file that is no image.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    return _open(path, start, path.suffix)


def open_bytes(content: bytes, ending: str = "") -> Image:
    """The same for a file's content, which may have had a name with this ending."""
    return _open(io.BytesIO(content), content[:_LOOKED_AT], ending)


def _open(source: Path | io.BytesIO, start: bytes, ending: str) -> Image:
    from PIL import Image as Images
    from PIL import UnidentifiedImageError

    if not start:
        raise ValueError("the file is empty")
    if _HEIF_FILE.match(start) and not reads_heif():
        raise ValueError(NO_HEIF)
    try:
        return Images.open(source)
    except UnidentifiedImageError:
        if ending.lower() in UNREADABLE:
            raise ValueError(f"images of kind {ending.lower()} are not read: save it as PNG or JPEG") from None
        raise
