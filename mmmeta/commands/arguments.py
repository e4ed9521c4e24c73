"""Argument types shared by several subcommands."""

import argparse
import os
from collections.abc import Sequence

from mmmeta.errors import UserError
from mmmeta.hosts.options import ConfigOptions
from mmmeta.weights.names import SCHEME, find

# What `split_model` takes apart, for usage messages.
MODEL = '(NAME | CONFIG CHECKPOINT)'
# With files of `mmmeta export`.
MODEL_OR_FILE = '(NAME | FILE | CONFIG CHECKPOINT)'


def split_model(words: Sequence[str], usage: str) -> tuple[str, str, list[str]]:
    """Split arguments into a model's config and checkpoint, and the rest.

    Args:
        words: The name of a published model, or a config and a checkpoint; then others.
        usage: How the command is called, for errors.

    Returns:
        The config, as `load_config` takes it; the checkpoint; the other words.

    Raises:
        CheckpointError: An unknown name; the message lists the nearest.
        UserError: A config without a checkpoint.
    """
    first, *rest = words
    if not is_config(first):
        row = find(first)
        return row.name, SCHEME + row.name, rest
    if not rest:
        raise UserError(f'{first} needs a checkpoint: {usage}')
    return first, rest[0], rest[1:]


def is_config(text: str) -> bool:
    """Whether `text` means a config rather than a published model."""
    return text.endswith('.py') or '::' in text or os.path.exists(text)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`, as the libraries' tools have it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings that override those of the config; nested keys with dots',
    )


def positive(text: str) -> int:
    """Return a number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'expected at least 1, got {text}')
    return number


def natural(text: str) -> int:
    """Return a number of at least 0, for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f'expected at least 0, got {text}')
    return number
