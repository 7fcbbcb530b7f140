"""A backbone on a device, which turns pixels or image files into features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.devices import torch_device
from sdc.errors import SdcError, UsageError
from sdc.extract.backbones import Backbone, forward_with_tokens, load_backbone
from sdc.extract.image_files import open_file
from sdc.extract.image_loader import ImageBatch, batches
from sdc.extract.images import Preprocessing
from sdc.extract.store import FEATURES, TOKENS, view_name

if TYPE_CHECKING:
    import torch

STORED = np.float16  # what features are rounded to


class Encoder:
    """A backbone on a device. On CUDA it computes in mixed precision (float16), on the CPU in float32.

    Tensors are laid out channels last: measured 1.4 x faster for convolutions on two AVX2 cores, level for
    transformers, and what tensor cores want; it is also how pixels come from PIL.

    Args:
        device: such as "cpu" or "cuda:1"; by default CUDA where there is one.

    Raises:
        UsageError: there is no such device.
    """

    def __init__(self, backbone: Backbone, device: str | None = None) -> None:
        import torch

        self.backbone = backbone
        self.device = torch_device(device)
        self.module = backbone.module.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        scale = 255 * torch.tensor([backbone.mean, backbone.std], device=self.device)
        self._mean, self._std = scale.view(2, 1, 3, 1, 1).unbind()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The features of a batch.

        Args:
            pixels: (n, S, S, 3) uint8, prepared as the backbone wants them.

        Returns:
            (n, d) float16. A value too large for it is infinite, which the feature store refuses.

        Raises:
            SdcError: the device's memory is too small.
        """
        if not len(pixels):
            return np.empty((0, self.backbone.dimension), STORED)
        return self._compute(pixels, lambda images: [self.module(images).half()])[0]

    def features(self, batch: ImageBatch) -> np.ndarray:
        """The features of a batch's images, which may be squares or have shapes of their own: (n, d) float16."""
        if batch.scaled:
            return np.stack([self.over_scales(image) for image in batch.scaled])
        return self(batch.pixels)

    def arrays(self, batch: ImageBatch, *, tokens: bool = False) -> dict[str, np.ndarray]:
        """All that feats.h5 holds of a batch's images, by the names of its datasets: features, views, tokens.

        Each view goes through the backbone in batches of its own, so that the plain one's features do not depend on
        the others.
        """
        views = {view_name(number): self(pixels) for number, pixels in enumerate(batch.views, 1)}
        if not tokens:
            return {FEATURES: self.features(batch), **views}
        features, patches = self.with_tokens(batch.pixels)
        return {FEATURES: features, **views, TOKENS: patches}

    def over_scales(self, image: Sequence[np.ndarray]) -> np.ndarray:
        """The features of one image at several scales: l2-normalised each, averaged, and normalised again.

        Args:
            image: (h, w, 3) uint8 for each scale.

        Returns:
            (d,) float16 of length 1.

        Raises:
            SdcError: the device's memory is too small.
        """
        units = [unit(self._compute(pixels[None], lambda images: [self.module(images).float()])[0]) for pixels in image]
        mean: np.ndarray = unit(np.mean(units, axis=0))[0]
        return mean.astype(STORED)

    def with_tokens(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features of a batch, and the patch tokens that `sdc.extract.backbones.tokens` says.

        Returns:
            (n, d) as `__call__` gives, and (n, T, w) float16.

        Raises:
            SdcError: the device's memory is too small.
        """
        if not len(pixels):
            features, tokens = self.with_tokens(np.zeros((1, *pixels.shape[1:]), np.uint8))
            return features[:0], tokens[:0]
        features, tokens = self._compute(
            pixels, lambda images: [output.half() for output in forward_with_tokens(self.module, images)]
        )
        return features, tokens

    def _compute(
        self, pixels: np.ndarray, compute: Callable[[torch.Tensor], Sequence[torch.Tensor]]
    ) -> list[np.ndarray]:
        import torch

        try:
            with torch.inference_mode(), self.precision():
                return [output.cpu().numpy() for output in compute(self.normalised(pixels))]
        except torch.OutOfMemoryError as error:
            count, height, width, _ = pixels.shape
            raise SdcError(
                f"{self.device} has too little memory for {count} images of {width} x {height} pixels at once: "
                f"choose a smaller --{'batch-size' if count > 1 else 'image-size'}"
            ) from error

    def precision(self) -> torch.autocast:
        """The context that the module runs in: float16 where it pays on CUDA, nothing on the CPU."""
        import torch

        return torch.autocast("cuda", torch.float16, enabled=self.device.type == "cuda")

    def normalised(self, pixels: np.ndarray) -> torch.Tensor:
        """(n, S, S, 3) uint8 -> (n, 3, S, S) float32 on the device, channels last."""
        import torch

        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
        return images.sub_(self._mean).div_(self._std)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) scaled to length 1; those that are all zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def recorded_encoder(provenance: Mapping[str, Any], weights: str | None = None, device: str | None = None) -> Encoder:
    """The encoder that a feature store's rows came from.

    Args:
        provenance: the feature store's.
        weights: the file with the weights, where the features were made with `--weights FILE`.

    Raises:
        UsageError: the features were imported, or `weights` is needed.
        SdcError: the weights are not the recorded ones.
    """
    name, tag = provenance.get("backbone"), str(provenance.get("weights"))
    if provenance.get("source") != "extract" or not name:
        raise UsageError("these features were imported, no backbone is known that makes more: search by vectors or ids")
    if weights is None and tag.startswith("file:"):
        raise UsageError(f"these features were made with the weights file {tag[5:]}: name that file as the weights")
    if weights is None and tag.startswith("random:"):
        weights = tag
    preprocessing = Preprocessing.from_record(provenance["preprocessing"])
    backbone = load_backbone(name, weights, preprocessing.size, any_shape=bool(preprocessing.scales))
    if backbone.weights_sha256 != provenance["weights_sha256"]:
        raise SdcError(
            f"the weights of {name} found here ({backbone.weights}, SHA-256 {backbone.weights_sha256[:16]}...) are not "
            f"those of the features ({tag}, {provenance['weights_sha256'][:16]}...): name the file with these"
        )
    return Encoder(backbone, device)


def features_of_images(
    paths: Sequence[Path], provenance: Mapping[str, Any], weights: str | None = None, *, batch_size: int = 64
) -> np.ndarray:
    """Rows of features for image files, made as a feature store's were: same backbone, weights, preprocessing.

    Args:
        paths: n image files.
        provenance, weights: see `recorded_encoder`.

    Returns:
        (n, d) float16.

    Raises:
        SdcError: an image cannot be read; and as `recorded_encoder`.
    """
    if not paths:
        raise UsageError("no image is named: expected at least one")
    preprocessing = Preprocessing.from_record(provenance["preprocessing"])
    groups = [range(start, min(start + batch_size, len(paths))) for start in range(0, len(paths), batch_size)]
    # All images are read before the backbone is loaded: a wrong name shows at once.
    loaded = list(batches(lambda row: open_file(paths[row]), groups, preprocessing))
    for batch in loaded:
        for row, reason in batch.skipped:
            raise SdcError(f"cannot read the image {paths[row]}: {reason}")
    encoder = recorded_encoder(provenance, weights)
    return np.concatenate([encoder.features(batch) for batch in loaded])
