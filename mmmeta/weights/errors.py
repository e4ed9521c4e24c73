"""The exception for reading, converting and downloading weights."""

from collections.abc import Sequence

from mmmeta.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be obtained, read, recognized or loaded.

    A `RuntimeError`, which PyTorch and MMEngine raise for a state_dict that does not
    match. The message names the file, what was wrong with it, what was expected and
    what to do.
    """


def first_few(items: Sequence[object], count: int = 4) -> str:
    """Return the first items as text, and the number of further ones."""
    text = ', '.join(_short(str(item)) for item in items[:count])
    more = len(items) - count
    return f'{text} and {more} more' if more > 0 else text


def _short(text: str, width: int = 200) -> str:
    """Return text as one line, truncated if it is long: a key may be anything."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= width else f'{text[:width]}...'
