"""Training augmentation of a whole batch in torch: what the published training does to a crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mip_edge.errors import OptionError

_ERASING_TRIES = 10
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How far a crop is changed; lengths are pixels of a crop 256 high, scaled with the height."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    pad: float = 10.0
    """Zero border around the crop before it is cut to size again at a random place."""
    brightness: float = 0.3
    """Brightness is multiplied by 1 - this to 1 + this."""
    contrast: float = 0.3
    """Contrast likewise."""
    blur_kernel: float = 21.0
    """Width of the Gaussian blur's window; a crop is either jittered or blurred, never both."""
    blur_sigma: tuple[float, float] = (0.1, 3.0)
    """Least and greatest standard deviation of the blur."""
    erase: float = 0.5
    """Probability that a rectangle is filled with normal noise."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Share of the crop that is erased."""
    erase_aspect: float = 0.3
    """Least height / width of the rectangle; the greatest is its inverse."""
    grey: float = 0.5
    """Probability that the three channels become their weighted mean, after erasing."""

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "grey", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"augmentation {name} must be 0 to 1, got {getattr(self, name)}")
        if self.pad < 0 or self.blur_kernel < 1 or not 0 < self.erase_aspect <= 1:
            raise OptionError(
                "augmentation needs pad >= 0, blur_kernel >= 1 and 0 < erase_aspect <= 1, got "
                f"{self.pad}, {self.blur_kernel}, {self.erase_aspect}"
            )
        for name, greatest in (("blur_sigma", math.inf), ("erase_area", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= greatest:
                raise OptionError(
                    f"augmentation {name} must be rising and above 0, got {low, high}"
                )


PUBLISHED = AugmentOptions()
LIGHT = AugmentOptions(
    brightness=0.15, contrast=0.15, blur_sigma=(0.1, 0.6), pad=4.0, erase=0.0, grey=0.0
)
"""Changes that leave a crop nearly as it is."""


def normalize(crops: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to the float (B, 3, H, W) in [-1, 1] that the network takes."""
    return crops.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def augment(
    crops: Tensor, generator: torch.Generator, options: AugmentOptions = PUBLISHED
) -> Tensor:
    """A batch uint8 (B, H, W, 3) changed at random, normalised, float (B, 3, H, W).

    Flip, shift, jitter or blur, normalise, erase, grey: the order of the published code. The same
    state of `generator` (on the device of the crops) gives the same batch.
    """
    scale = crops.shape[1] / 256
    crops = _flip(crops, generator, options.flip)
    crops = _shift(crops, generator, round(options.pad * scale))
    images = crops.permute(0, 3, 1, 2).to(torch.float32).div_(255.0).contiguous()
    blurred = _uniform(len(crops), generator) < 0.5
    images[~blurred] = _jitter(images[~blurred], generator, options)
    images[blurred] = _blur(images[blurred], generator, options, scale)
    images = images.sub_(0.5).div_(0.5)
    images = _erase(images, generator, options)
    return _grey(images, generator, options.grey)


def _uniform(count: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    values = torch.rand(count, generator=generator, device=generator.device)
    return values * (high - low) + low


def _flip(crops: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    flipped = _uniform(len(crops), generator) < probability
    return torch.where(flipped[:, None, None, None], crops.flip(2), crops)


def _shift(crops: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """Zero border of `pad`, then a window of the old size at a random place."""
    count, height, width, _ = crops.shape
    padded = torch.nn.functional.pad(crops, (0, 0, pad, pad, pad, pad))
    corners = torch.randint(
        0, 2 * pad + 1, (count, 2), generator=generator, device=generator.device
    ).tolist()
    windows = [
        image[top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(windows) if windows else crops


def _luma(images: Tensor) -> Tensor:
    """Weighted mean of the channels, (B, 1, H, W)."""
    red, green, blue = _GREY_WEIGHTS
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]


def _jitter(images: Tensor, generator: torch.Generator, options: AugmentOptions) -> Tensor:
    """Brightness and contrast of images in [0, 1], in either order."""
    count = len(images)

    def factors(spread: float) -> Tensor:
        return _uniform(count, generator, 1 - spread, 1 + spread)[:, None, None, None]

    brightness, contrast = factors(options.brightness), factors(options.contrast)
    brightness_first = (_uniform(count, generator) < 0.5)[:, None, None, None]
    ones = torch.ones_like(brightness)
    images = (images * torch.where(brightness_first, brightness, ones)).clamp_(0, 1)
    mean = _luma(images).mean(dim=(2, 3), keepdim=True)
    images = torch.lerp(mean.expand_as(images), images, contrast.expand_as(images)).clamp_(0, 1)
    return (images * torch.where(brightness_first, ones, brightness)).clamp_(0, 1)


def _blur(
    images: Tensor, generator: torch.Generator, options: AugmentOptions, scale: float
) -> Tensor:
    """Gaussian blur, each image with a sigma of its own, as one banded matrix for each axis."""
    low, high = options.blur_sigma
    sigma = _uniform(len(images), generator, low, high) * scale
    radius = int(options.blur_kernel * scale) // 2
    vertical = _blur_matrix(sigma, images.shape[2], radius)
    horizontal = _blur_matrix(sigma, images.shape[3], radius)
    return vertical[:, None] @ images @ horizontal[:, None].transpose(2, 3)


def _blur_matrix(sigma: Tensor, length: int, radius: int) -> Tensor:
    """(B, length, length): each row a Gaussian window, folded back at the edges (reflection)."""
    radius = min(radius, length - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    window = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    window = window / window.sum(dim=1, keepdim=True)
    sources = torch.arange(length, device=sigma.device)[:, None] + offsets
    sources = sources.abs()
    sources = torch.where(sources >= length, 2 * (length - 1) - sources, sources)
    matrix = torch.zeros(len(sigma), length, length, device=sigma.device)
    index = sources.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, window[:, None, :].expand_as(index).contiguous())


def _erase(images: Tensor, generator: torch.Generator, options: AugmentOptions) -> Tensor:
    """A rectangle of normal noise; of ten tries the first that fits, or none."""
    count, channels, height, width = images.shape
    shape = (count, _ERASING_TRIES)
    tries = count * _ERASING_TRIES
    area = _uniform(tries, generator, *options.erase_area).view(shape) * (height * width)
    span = -math.log(options.erase_aspect)
    aspect = torch.exp(_uniform(tries, generator, -span, span)).view(shape)
    tall, wide = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (tall < height) & (wide < width)
    first = fits.to(torch.int64).argmax(dim=1, keepdim=True)
    tall, wide = tall.gather(1, first).flatten(), wide.gather(1, first).flatten()
    top = (_uniform(count, generator) * (height - tall + 1)).floor()
    left = (_uniform(count, generator) * (width - wide + 1)).floor()
    erased = (_uniform(count, generator) < options.erase) & fits.any(dim=1)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    mask = in_rows[:, :, None] & in_columns[:, None, :] & erased[:, None, None]
    mask = mask[:, None].expand(-1, channels, -1, -1)
    noise = torch.randn(int(mask.sum()), generator=generator, device=generator.device)
    return images.masked_scatter(mask, noise)


def _grey(images: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    grey = (_uniform(len(images), generator) < probability)[:, None, None, None]
    return torch.where(grey, _luma(images), images)
