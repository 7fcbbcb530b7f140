"""From image files to pixels: colours, orientation, resizing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError, UsageError, unknown_name_error

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZES = ("squash", "crop", "longest")
LONGEST, SCALES = 1024, (0.7071, 1.0, 1.4142)  # the size and the scales at which landmark sets are embedded by default
SHORTEST = 32  # pixels of a side below which some networks have nothing left after their last pooling
EXIF_ORIENTATION = 0x0112
LARGEST = 1 << 26  # pixels of a resized image, before the crop: else a line of one pixel's width fills the memory


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a backbone's input: a square, or for landmark sets its own shape at several scales.

    Attributes:
        size: S, the side of the square in pixels; of the longest side at scale 1.
        resize: "squash": bicubic to S x S, whatever the aspect, as for CIFAR. "crop": the shorter side bicubic to
            S * 256 / 224, then the S x S in the centre. "longest": it keeps its shape; where its longest side is above
            S it is made S, smaller ones are not enlarged (a query's box keeps the scale that its object has in the
            database).
        mean, std: of each colour, on a scale of 0 to 1; the backbone sees (pixel / 255 - mean) / std.
        scales: of "longest" alone: factors of that size, each an input of its own.

    Raises:
        UsageError: an unknown resize, scales where there must be none, no scales or bad ones where there must be some.
    """

    size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise unknown_name_error("resize", self.resize, RESIZES)
        if self.resize != "longest" and self.scales:
            raise UsageError("--scales is for landmark sets, whose images keep their shape: these become squares")
        if self.resize == "longest" and not self.scales:
            raise UsageError("--scales names none, expected at least one, such as 1")
        for scale in self.scales:
            if not 0 < scale * self.size <= LARGEST**0.5:
                least, most = 1 / self.size, LARGEST**0.5 / self.size
                raise UsageError(f"--scales has {scale:g}, expected {least:.2g} to {most:.2g} at {self.size} pixels")

    def record(self) -> dict[str, Any]:
        """What a feature store records of it."""
        return {
            "size": self.size, "resize": self.resize, "interpolation": "bicubic",
            "mean": list(self.mean), "std": list(self.std),
            **({"scales": list(self.scales)} if self.scales else {}),
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that a feature store recorded.

        Raises:
            SdcError: the record is not one of ours.
        """
        try:
            if record["interpolation"] != "bicubic":
                raise ValueError(f"interpolation {record['interpolation']!r}")
            mean, std, scales = (tuple(record.get(name, ())) for name in ("mean", "std", "scales"))
            return cls(int(record["size"]), record["resize"], mean, std, scales)
        except (KeyError, TypeError, ValueError) as error:
            raise SdcError(f"the recorded preprocessing cannot be repeated ({error!r} in {record!r})") from error

    def pixels(self, image: Image) -> np.ndarray:
        """An image as (S, S, 3) uint8."""
        from PIL.Image import Resampling

        size = self.size
        image = eight_bits(upright(image))
        if self.resize == "squash":
            image = image.resize((size, size), Resampling.BICUBIC)
        else:
            width, height = image.size
            shorter = round(size * 256 / 224)
            if width <= height:
                width, height = shorter, shorter * height // width
            else:
                width, height = shorter * width // height, shorter
            if width * height > LARGEST:
                raise ValueError(f"its sides of {image.width} and {image.height} pixels differ too much to be resized")
            left, upper = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), Resampling.BICUBIC).crop((left, upper, left + size, upper + size))
        return np.array(image.convert("RGB"))  # grey ones are cheaper to resize in grey, and come out the same

    def scaled(self, image: Image) -> list[np.ndarray]:
        """An image at each of the scales as (h, w, 3) uint8; no side is below `SHORTEST`."""
        from PIL.Image import Resampling

        image = eight_bits(upright(image))
        fit = min(1.0, self.size / max(image.size))
        scaled = []
        for scale in self.scales:
            width, height = (max(SHORTEST, round(side * fit * scale)) for side in image.size)
            scaled.append(np.array(image.resize((width, height), Resampling.BICUBIC).convert("RGB")))
        return scaled


def upright(image: Image) -> Image:
    """The image turned as its EXIF orientation asks."""
    from PIL import ImageOps

    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF does not make the pixels worse, and PIL's parser raises many things
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def eight_bits(image: Image) -> Image:
    """The image in mode L or RGB, 8 bits a channel; transparent parts lie on white.

    Raises:
        ValueError: floating-point pixels, whose scale nothing tells.
    """
    from PIL import Image as Images

    if image.mode.startswith("I"):  # 16 bits, also where PIL hands them over in 32
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Images.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose scale is not known: save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Images.new("RGBA", image.size, "white")
        return Images.alpha_composite(white, image).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")
