"""Deterministic weights for the golden files in this folder.

A golden file names every tensor of an official checkpoint (its key and its
shape, in the official layout) but holds no weights: `fill` makes them from the
key alone, so that anyone can rebuild the same checkpoint, load it through the
code under test and compare the outputs with the recorded ones.

Only NumPy's legacy generator is used: its stream is frozen across versions.
"""

import zlib

import numpy as np


def fill(key: str, shape: tuple) -> np.ndarray:
    """Return the float32 value of one tensor, made from its key and shape."""
    shape = tuple(shape)
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    leaf = key.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, dtype=np.int64)
    noise = rng.standard_normal(shape).astype(np.float32)
    if leaf == 'running_var':
        value = 1.0 + 0.2 * np.abs(noise)
    elif leaf == 'running_mean':
        value = 0.1 * noise
    elif leaf == 'random_matrix':  # rows sum to one
        weight = np.exp(noise)
        value = weight / weight.sum(-1, keepdims=True)
    elif leaf.startswith(('layer_scale', 'gamma_')):
        value = 0.5 + 0.1 * noise
    elif leaf == 'scale':  # StarReLU, ResScale
        value = 0.9 + 0.05 * noise
    elif leaf == 'bias':
        value = 0.05 * noise
    elif len(shape) == 1:  # a norm's weight
        value = 1.0 + 0.1 * noise
    else:  # conv or linear weight
        fan_in = float(np.prod(shape[1:]))
        value = noise * (1.0 / fan_in) ** 0.5
    return np.asarray(value, dtype=np.float32)


def image(height: int, width: int, batch: int = 1) -> np.ndarray:
    """Return the (batch, 3, height, width) float32 input of a golden case."""
    rng = np.random.RandomState(7)
    return rng.standard_normal((batch, 3, height, width)).astype(np.float32)


def sample(array: np.ndarray, count: int = 256) -> np.ndarray:
    """Return `count` evenly spaced values of the flattened array."""
    flat = np.asarray(array, dtype=np.float32).reshape(-1)
    step = max(1, flat.size // count)
    return flat[::step][:count].copy()
