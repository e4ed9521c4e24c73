"""The one exception of everything that reads, converts or downloads weights."""

from collections.abc import Sequence

from mmmeta.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that cannot be had, read, recognized or loaded.

    A `RuntimeError`, as PyTorch and MMEngine raise for a state dict that does not
    match. The message names the file, what was wrong with it, what was expected
    and what to do.
    """


def first_few(items: Sequence[object], count: int = 4) -> str:
    """Return the first items as text, and how many more there are."""
    text = ', '.join(str(item) for item in items[:count])
    more = len(items) - count
    return f'{text} and {more} more' if more > 0 else text
