"""Checks of single arguments: one line says what was expected, and what was given."""

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

from mmmeta.errors import InvalidTypeError, InvalidValueError


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an integer from `least` to `most`; a bool is not one.

    Raises:
        InvalidTypeError: It is not an integer.
        InvalidValueError: It is out of range.
    """
    wanted = f'{least} to {most}'
    if most is None:
        wanted = 'positive' if least == 1 else f'at least {least}'
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f'{name} must be an integer, {wanted}; got {value!r}')
    number = int(value)
    if number < least or (most is not None and number > most):
        raise InvalidValueError(f'{name} must be {wanted}, got {value!r}')
    return number


def odd(name: str, value: Any) -> int:
    """Return an odd positive integer, the side of a window with a middle.

    Raises:
        InvalidTypeError: It is not an integer.
        InvalidValueError: It is even or not positive.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f'{name} must be an odd integer, got {value!r}')
    number = int(value)
    if number < 1 or number % 2 == 0:
        raise InvalidValueError(f'{name} must be odd and positive, got {value!r}')
    return number


def number(name: str, value: Any, least: float = -math.inf) -> float:
    """Return a finite number of at least `least`; a bool is not one.

    Raises:
        InvalidTypeError: It is not a real number.
        InvalidValueError: It is not finite, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(value) or value < least:
        wanted = 'finite' if least == -math.inf else f'finite and at least {least:g}'
        raise InvalidValueError(f'{name} must be {wanted}, got {value!r}')
    return float(value)


def switch(name: str, value: Any) -> bool:
    """Return True or False, given as such or as 1 or 0.

    Text is refused: 'False' would count as true.

    Raises:
        InvalidTypeError: It is neither.
    """
    if not isinstance(value, Integral) or value not in (0, 1):
        raise InvalidTypeError(f'{name} must be True or False, got {value!r}')
    return bool(value)


MOST_CHANNELS = 2**20


def hidden_channels(name: str, dim: int, ratio: Any) -> int:
    """Return how many channels a layer has that is `ratio` times as wide as `dim`.

    Raises:
        InvalidTypeError: The ratio, called `name`, is not a number.
        InvalidValueError: It leaves no channel, or gives over `MOST_CHANNELS`.
    """
    hidden = dim * number(name, ratio)
    if not 1 <= hidden <= MOST_CHANNELS:
        raise InvalidValueError(
            f'{name} must give 1 to {MOST_CHANNELS} hidden channels; {ratio!r} times '
            f'{dim} is {hidden:g}'
        )
    return int(hidden)


def keywords(
    what: str, given: Iterable[str], function: Callable, own: Iterable[str] = ()
) -> None:
    """Check that a function takes the keywords given, but those that are `own`.

    Raises:
        InvalidTypeError: It does not; the message has what it takes.
    """
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in set(own)]
    unknown = [name for name in given if name not in known]
    if unknown:
        choice = f'choose from {", ".join(known)}' if known else 'it takes none'
        raise InvalidTypeError(f'{what} takes no argument {unknown[0]!r}; {choice}')
