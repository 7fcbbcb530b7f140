"""Images: as queries, through the backbone that made the features, and as files that are shown."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError, log
from sdc.serve.limits import HTTPRefusal
from sdc.serve.settings import LONGEST_SIDE, MOST_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

# PIL reads more; EPS, for one, would start another program.
_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"}
# Modes of which decoding and resizing take 8 bytes a pixel at most; with transparency or 16 bits they take up to 28.
_LIGHT = {"1", "L", "P", "RGB", "CMYK", "YCbCr"}
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SHOWN = {
    ".avif": "image/avif", ".bmp": "image/bmp", ".gif": "image/gif", ".jfif": "image/jpeg", ".jpe": "image/jpeg",
    ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
}  # fmt: skip


class Embedder:
    """The backbone of an index's features, at work on one image after another in a thread of its own.

    One thread, since a backbone keeps all processors busy, and since decoded images are large.

    Args:
        provenance, weights: see `sdc.extract.recorded_encoder`. The backbone is loaded in the background.
    """

    def __init__(self, provenance: Mapping[str, Any], weights: str | None) -> None:
        self.origin = origin_of(provenance)
        self._provenance, self._weights = provenance, weights
        self.thread = ThreadPoolExecutor(1, "sdc-serve-images")
        self._encoder = self.thread.submit(self._load)

    @property
    def state(self) -> str:
        """ready, loading, or unavailable."""
        if not self._encoder.done():
            return "loading"
        return "unavailable" if self._encoder.cancelled() or self._encoder.exception() else "ready"

    def __call__(self, body: bytes | bytearray) -> np.ndarray:
        """The features of an image file's bytes, (1, d) float16. To be called in `thread`, where it never waits.

        Raises:
            HTTPRefusal: 422 they are no image, or too many pixels; 501 there is no backbone.
        """
        from sdc.extract import Preprocessing, load_batch

        if self.state != "ready":
            raise HTTPRefusal(
                501, "images cannot be searched: the backbone of the features is not at hand; send a vector"
            )
        preprocessing = Preprocessing.from_record(self._provenance["preprocessing"])
        batch = load_batch(lambda row: _opened(body), [0], preprocessing)
        for _, reason in batch.skipped:
            raise HTTPRefusal(422, f"the image cannot be read: {reason}")
        features: np.ndarray = self._encoder.result().features(batch)
        return features

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Any:
        from sdc.extract import recorded_encoder

        try:
            return recorded_encoder(self._provenance, self._weights)
        except SdcError as error:
            log.warning("images cannot be searched: %s", error)
            raise
        except Exception as error:  # a download, or a library's loader, may fail in any way
            log.warning("images cannot be searched: the backbone cannot be loaded (%s)", " ".join(str(error).split()))
            raise


def embedder_of(provenance: Mapping[str, Any], weights: str | None, before: Embedder | None) -> Embedder | None:
    """What embeds images for features of this provenance: the one before, where it does; None of imported features."""
    if provenance.get("source") != "extract":
        return None
    if before and before.origin == origin_of(provenance) and before.state != "unavailable":
        return before
    return Embedder(provenance, weights)


def origin_of(provenance: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an embedder depends on."""
    return tuple(provenance.get(name) for name in ("backbone", "weights_sha256", "preprocessing"))


def _opened(body: bytes | bytearray) -> Image:
    """An image, not yet decoded: what its header announces is checked first."""
    from PIL import Image as Images

    Images.init()
    with warnings.catch_warnings():  # of PIL, about more pixels than are taken here
        warnings.simplefilter("ignore", Images.DecompressionBombWarning)
        image = Images.open(io.BytesIO(body), formats=sorted(_FORMATS.intersection(Images.OPEN)))
    if max(image.size) > LONGEST_SIDE:
        raise ValueError(f"sides of {image.width} and {image.height} pixels, expected at most {LONGEST_SIDE}")
    light = image.mode in _LIGHT and "transparency" not in image.info and image.format not in ("AVIF", "WEBP")
    most = MOST_PIXELS if light else MOST_PIXELS // 2
    if image.width * image.height > most:
        raise ValueError(
            f"{image.width} x {image.height} pixels, expected at most {most // 1_000_000} million"
            f"{'' if light else ' for its kind'}: scale it down"
        )
    tags = getattr(image, "tag_v2", {})  # of TIFF, where a tile may be larger than the image
    if tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_HEIGHT, 1) > MOST_PIXELS // 2:
        raise ValueError("its tiles have too many pixels")
    return image


def shown(folder: Path, name: str) -> tuple[Path, str]:
    """The file of an id below `folder`, and its media type.

    Raises:
        HTTPRefusal: 404 no such file, none that browsers show, or one that a link or `..` leads out of the folder to.
    """
    missing = HTTPRefusal(404, "no image of this id")
    try:
        root = folder.resolve(strict=True)
        path = (root / name).resolve(strict=True)
        inside = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # absent, too long, a NUL, a loop of links
        raise missing from None
    kind = _SHOWN.get(path.suffix.lower())
    if not inside or kind is None:
        raise missing
    return path, kind


def any_shown(folder: Path, names: Iterable[str]) -> bool:
    """Whether one of these ids has an image below `folder`."""
    for name in names:
        with contextlib.suppress(HTTPRefusal):
            shown(folder, name)
            return True
    return False
