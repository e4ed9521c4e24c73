"""Draws the parts of a scene: shapes, textures and colors."""

from __future__ import annotations

import math

import cv2
import numpy as np

# Shapes are drawn this many times larger and then downscaled.
SUPERSAMPLE = 4


# -- outlines ---------------------------------------------------------------


def _regular(radii: np.ndarray) -> np.ndarray:
    """Return points at the given distances from the origin, at equal angles."""
    angles = np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def _outline(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Return the closed polygons (even-odd rule) of a shape of about unit size."""
    if name == 'circle':
        return [_regular(np.ones(72))]
    if name == 'ring':
        outer = _regular(np.ones(72))
        return [outer, outer * rng.uniform(0.48, 0.66)]
    if name == 'square':
        return [_regular(np.ones(4))]
    if name == 'triangle':
        return [_regular(np.ones(3)) + rng.uniform(-0.12, 0.12, (3, 2))]
    if name == 'star':
        return [_regular(np.tile([1.0, rng.uniform(0.38, 0.48)], 5))]
    arm = rng.uniform(0.26, 0.38)
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return [
        np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    ]


def _polygon_area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def rasterize(rng: np.random.Generator, name: str, area: float) -> np.ndarray:
    """Draw a randomly rotated and stretched shape of about ``area`` pixels.

    Returns its coverage, float32 (h, w) in [0, 1], tightly cropped.
    """
    polygons = _outline(rng, name)
    stretch = math.sqrt(rng.uniform(1.0, 1.2))
    matrix = (
        _rotation(rng.uniform(0, 2 * math.pi))
        @ np.diag([stretch, 1 / stretch])
        @ _rotation(rng.uniform(0, 2 * math.pi))
    )
    inner = sum(_polygon_area(p) for p in polygons[1:])
    scale = math.sqrt(area / (_polygon_area(polygons[0]) - inner))
    shift = rng.random(2)  # positions are whole pixels, so shift the shape itself
    polygons = [p @ matrix.T * scale + shift for p in polygons]
    low = np.floor(polygons[0].min(0)) - 1
    width, height = (np.ceil(polygons[0].max(0) - low) + 2).astype(int)
    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE), np.uint8)
    # fillPoly counts from pixel centers, in 1/16 pixels for shift=4.
    corners = [
        np.round(((p - low) * SUPERSAMPLE - 0.5) * 16).astype(np.int32)
        for p in polygons
    ]
    cv2.fillPoly(canvas, corners, (255,), shift=4)
    alpha = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return alpha.astype(np.float32) / 255


# -- textures ---------------------------------------------------------------


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell: float
) -> np.ndarray:
    """Return noise in [0, 1] with blobs about ``cell`` pixels wide."""
    grid = rng.random((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32)
    noise = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(noise, 0, 1)


def _octaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = rng.uniform(24, 80)
    total = np.zeros((height, width), np.float32)
    for k, weight in enumerate((0.5, 0.27, 0.15, 0.08)):
        total += weight * smooth_noise(rng, height, width, cell / 2**k)
    return np.clip((total - 0.5) * 1.8 + 0.5, 0, 1)


def _wave(
    rng: np.random.Generator,
    height: int,
    width: int,
    angle: float,
    period: float,
    bend: float,
) -> np.ndarray:
    """Return a sine wave in [-1, 1] across the given direction, bent by noise."""
    y, x = np.ogrid[:height, :width]
    slope = (x * math.cos(angle) + y * math.sin(angle)) / period
    phase = slope.astype(np.float32) + np.float32(rng.random())
    if bend:
        phase += bend * smooth_noise(rng, height, width, 60)
    return np.sin(phase * np.float32(2 * math.pi))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    wave = _wave(
        rng,
        height,
        width,
        rng.uniform(0, math.pi),
        rng.uniform(7, 36),
        rng.choice(np.array([0.0, 0.6, 1.5])),
    )
    return np.clip(wave * rng.uniform(0.5, 2.5) + 0.5, 0, 1)


def _checkers(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    angle, period = rng.uniform(0, math.pi), rng.uniform(14, 44)
    bend = rng.choice(np.array([0.0, 0.8]))
    wave = _wave(rng, height, width, angle, period, bend) * _wave(
        rng, height, width, angle + math.pi / 2, period, bend
    )
    return np.clip(wave * rng.uniform(1.0, 4.0) + 0.5, 0, 1)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = x * math.cos(angle) + y * math.sin(angle)
    return np.clip(slope * 0.45 + 0.5, 0, 1).astype(np.float32)


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = smooth_noise(rng, height, width, rng.uniform(9, 30))
    return np.clip((noise - 0.5) * rng.uniform(2, 8) + 0.5, 0, 1)


def _speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = smooth_noise(rng, height, width, rng.uniform(1.5, 4))
    return noise ** rng.uniform(1, 4)


_TEXTURES = (_octaves, _stripes, _checkers, _gradient, _blobs, _speckle)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a random pattern or a mixture of two; float32 (h, w) in [0, 1]."""
    pattern = _TEXTURES[rng.integers(len(_TEXTURES))](rng, height, width)
    if rng.random() < 0.35:
        other = _TEXTURES[rng.integers(len(_TEXTURES))](rng, height, width)
        noise = smooth_noise(rng, height, width, rng.uniform(40, 120))
        share = np.clip((noise - 0.5) * 6 + 0.5, 0, 1)
        pattern = pattern + share * (other - pattern)
    return pattern


def color_pairs(
    rng: np.random.Generator, count: int, spread: tuple[float, float]
) -> np.ndarray:
    """Return random colors, each with a second one at a distance within ``spread``.

    The result is float32 (count, 2, 3), BGR.
    """
    first = rng.uniform(10, 245, (count, 3))
    gray = first.mean(1, keepdims=True)
    # Uniformly random colors are more saturated than those of photographs.
    first += rng.uniform(0, 0.8, (count, 1)) * (gray - first)
    step = rng.normal(size=(count, 3))
    step *= rng.uniform(*spread, (count, 1)) / np.linalg.norm(
        step, axis=1, keepdims=True
    )
    second = np.clip(first + step, 0, 255)
    return np.stack([first, second], 1).astype(np.float32)


def colorize(pattern: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Interpolate from the first color (where the pattern is 0) to the second."""
    return cv2.transform(pattern, np.stack([pair[1] - pair[0], pair[0]], 1))
