"""Draws one scene of textured shapes, with the mask of every shape."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mmmeta.datasets._drawing import (
    color_pairs,
    colorize,
    rasterize,
    smooth_noise,
    texture,
)

# In alphabetical order, so that indices into CLASSES equal those of class-folder
# readers, which sort the folder names.
CLASSES: tuple[str, ...] = ('circle', 'cross', 'ring', 'square', 'star', 'triangle')

# The typical color, BGR, of a class: as in photographs, color hints at the class, but
# shape decides it.
CLASS_COLORS = np.array(
    [
        (60, 60, 215),  # circle: red
        (210, 90, 50),  # cross: blue
        (60, 170, 50),  # ring: green
        (45, 205, 225),  # square: yellow
        (190, 60, 165),  # star: purple
        (215, 215, 80),  # triangle: cyan
    ],
    np.float32,
)
# Share of the class's color in an instance's color, drawn for each instance.
CLASS_SHARE = (0.1, 0.9)

MIN_SIZE = 64
# Minimum number of instances, and minimum visible area of each in pixels.
MIN_PLACED, MIN_VISIBLE_AREA = 2, 60
# No shape covers more than this share of the image.
MAX_COVER = 0.25
# Weights of blue, green and red in the distance of two colors (the eye is least
# sensitive to blue), and the minimum distance at a shape's outline.
COLOR_WEIGHTS = np.array([0.6, 1.2, 1.0], np.float32)
MIN_CONTRAST = 90.0


@dataclass(frozen=True)
class Contents:
    """The number, sizes and occlusion of a scene's shapes.

    Attributes:
        instances: Minimum and maximum number of instances to try.
        area_ranges: Ranges of the full area in pixels.
        area_weights: Relative frequency of each range.
        visible_share: Minimum visible share of an instance's full area.
    """

    instances: tuple[int, int]
    area_ranges: tuple[tuple[int, int], ...]
    area_weights: tuple[float, ...]
    visible_share: float


# The limits of COCO's small, medium and large are 32^2 and 96^2; larger shapes lose
# area to those in front of them, so they start above the limit.
STANDARD = Contents(
    instances=(3, 8),
    area_ranges=((350, 980), (1100, 8500), (10500, 15500)),
    area_weights=(0.30, 0.44, 0.26),
    visible_share=0.5,
)
# Easy enough to learn within minutes: no small shapes and little occlusion.
EASY = Contents(
    instances=(2, 4),
    area_ranges=((2200, 15500),),
    area_weights=(1.0,),
    visible_share=0.7,
)


@dataclass(frozen=True)
class Scene:
    """One image and its visible instances.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        masks: bool (n, H, W), the visible pixels of each instance; no pixel
            belongs to two instances.
        labels: int64 (n,), indices into ``CLASSES``.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Instance:
    """A shape at its position: ``alpha`` is its coverage, float32 (h, w) in
    [0, 1], and (x, y) the image position of alpha's top left pixel, which
    may be outside the image."""

    label: int
    alpha: np.ndarray
    x: int
    y: int

    def windows(self, size: int) -> tuple[tuple, tuple]:
        """Return the overlapping slices of the image and of ``alpha``."""
        h, w = self.alpha.shape
        x0, x1 = max(self.x, 0), min(self.x + w, size)
        y0, y1 = max(self.y, 0), min(self.y + h, size)
        return (
            (slice(y0, y1), slice(x0, x1)),
            (slice(y0 - self.y, y1 - self.y), slice(x0 - self.x, x1 - self.x)),
        )


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    pair = color_pairs(rng, 1, (10, 50))[0]
    image = colorize(texture(rng, size, size), pair)
    tint = rng.uniform(-20, 20, (2, 3)).astype(np.float32)
    image += colorize(smooth_noise(rng, size, size, size / 3), tint)
    return image


def _draw_areas(rng: np.random.Generator, size: int, contents: Contents) -> np.ndarray:
    """Return the full areas of a scene's instances, mostly in descending order."""
    least, most = contents.instances
    count = rng.integers(least, most + 1)
    ranges = np.log(contents.area_ranges)
    ranges = ranges[rng.choice(len(ranges), count, p=contents.area_weights)]
    areas = np.exp(rng.uniform(ranges[:, 0], ranges[:, 1]))
    areas = np.minimum(areas, MAX_COVER * size**2)
    # In a fully random order, large shapes would often not fit.
    return areas[np.argsort(-np.log(areas) + rng.normal(0, 1.2, count))]


def _layout(
    rng: np.random.Generator, size: int, contents: Contents = STANDARD
) -> tuple[list[_Instance], np.ndarray]:
    """Place a scene's instances, from back to front.

    Returns them with a map of the visible instance at each pixel: int64 (size, size),
    the index of an instance or -1.
    """
    owner = np.full((size, size), -1)
    placed: list[_Instance] = []
    visible: np.ndarray = np.zeros(0, np.int64)
    needed: np.ndarray = np.zeros(0)
    for area in _draw_areas(rng, size, contents):
        label = int(rng.integers(len(CLASSES)))
        alpha = rasterize(rng, CLASSES[label], area)
        full = (alpha >= 0.5).sum()
        least = max(MIN_VISIBLE_AREA, contents.visible_share * full)
        h, w = alpha.shape
        for _ in range(12):
            x = int(rng.integers(-w // 4, size - 3 * w // 4 + 1))
            y = int(rng.integers(-h // 4, size - 3 * h // 4 + 1))
            new = _Instance(label, alpha, x, y)
            there, here = new.windows(size)
            mask = alpha[here] >= 0.5
            lost = np.bincount(owner[there][mask] + 1, minlength=len(placed) + 1)[1:]
            if mask.sum() >= max(least, 0.6 * full) and np.all(
                visible - lost >= needed
            ):
                owner[there][mask] = len(placed)
                placed.append(new)
                visible = np.append(visible - lost, mask.sum())
                needed = np.append(needed, least)
                break
    return placed, owner


def _pick_colors(
    rng: np.random.Generator, label: int, around: np.ndarray
) -> np.ndarray:
    """Return a pair of colors that contrasts with the pixels ``around`` (n, 3)."""
    pairs = color_pairs(rng, 16, (5, 30))
    share = rng.uniform(*CLASS_SHARE, (len(pairs), 1, 1)).astype(np.float32)
    pairs += share * (CLASS_COLORS[label] - pairs.mean(1, keepdims=True))
    pairs = np.clip(pairs, 0, 255)
    colors = np.concatenate([pairs, pairs.mean(1, keepdims=True)], 1)
    gap = colors[:, :, None] - around
    distance = np.sqrt(gap**2 @ COLOR_WEIGHTS).min(1)
    # A few pixels may be similar: use the tenth percentile.
    rank = len(around) // 10
    contrast = np.partition(distance, rank, axis=1)[:, rank]
    # Take the first good one: the best one would always be a garish color.
    good = np.flatnonzero(contrast >= MIN_CONTRAST)
    return pairs[good[0] if len(good) else contrast.argmax()]


def _paint(rng: np.random.Generator, image: np.ndarray, instance: _Instance) -> None:
    """Paint an instance over a float32 image, in place."""
    there, here = instance.windows(len(image))
    alpha = np.ascontiguousarray(instance.alpha[here])
    band = (cv2.dilate(alpha, np.ones((5, 5))) > 0) & (alpha < 0.5)
    around = image[there][band]
    pair = _pick_colors(rng, instance.label, around[:: max(1, len(around) // 100)])
    fill = colorize(texture(rng, *alpha.shape), pair)
    image[there] += cv2.merge([alpha] * 3) * (fill - image[there])


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Simulate uneven light, a soft lens and a noisy sensor; return uint8."""
    size = len(image)
    light = smooth_noise(rng, size, size, size / 1.5)
    light = 1.0 + rng.uniform(0.1, 0.5) * (light - 0.6)
    blurred: np.ndarray = cv2.GaussianBlur(
        image * cv2.merge([light] * 3), (5, 5), rng.uniform(0.45, 0.9)
    )
    # The sum of two uniform bytes approximates normal noise and is ten times faster;
    # its standard deviation is 104.
    pair = rng.integers(0, 256, (2, *blurred.shape), dtype=np.uint8)
    grain = cv2.add(pair[0], pair[1], dtype=cv2.CV_32F) - 255
    blurred += np.float32(rng.uniform(2, 8) / 104) * grain
    return np.clip(np.rint(blurred, out=blurred), 0, 255).astype(np.uint8)


def make_scene(rng: np.random.Generator, size: int = 256, easy: bool = False) -> Scene:
    """Draw one random scene of 2 to 8 shapes.

    At least 60 pixels and half of the full area of every instance are visible; later
    instances are in front of earlier ones. An easy scene has 2 to 4 shapes, none of
    them small, each at least 70 % visible.

    Args:
        rng: The source of all randomness; the same state gives the same scene.
        size: Height and width of the image in pixels, at least 64. The shapes' sizes
            are in pixels and do not scale with it. Default: 256.
        easy: Draw an easy scene. Default: False.

    Raises:
        ValueError: ``size`` is less than 64.
    """
    if size < MIN_SIZE:
        raise ValueError(
            f'size must be an integer of at least {MIN_SIZE}, got {size!r}'
        )
    placed: list[_Instance] = []
    while len(placed) < MIN_PLACED:
        placed, owner = _layout(rng, size, EASY if easy else STANDARD)
    image = _background(rng, size)
    for instance in placed:
        _paint(rng, image, instance)
    masks = owner == np.arange(len(placed))[:, None, None]
    labels = np.array([instance.label for instance in placed])
    return Scene(_photograph(rng, image), masks, labels)
