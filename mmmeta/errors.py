"""Errors that users see as one line: bad input, or something missing."""

import sys
from importlib import import_module
from types import ModuleType


class UserError(RuntimeError):
    """A wrong argument or a missing file: shown as one line, without a traceback."""


class InvalidValueError(UserError, ValueError):
    """An argument has the right type but not one of the expected values."""


class InvalidTypeError(InvalidValueError, TypeError):
    """An argument of a wrong type, which is a wrong value too."""


class MissingLibraryError(UserError, ImportError):
    """A required library cannot be imported."""


class NoResultError(UserError):
    """A model's task is not its library's main one."""


def one_line(error: BaseException, width: int = 300) -> str:
    """Return an error's message as one line, with its class if the message is terse.

    Args:
        error: Any exception.
        width: Maximum length in characters; the rest is truncated. Default: 300.
    """
    text = ' '.join(str(error).split())
    short = text if len(text) <= width else f'{text[:width]}...'
    named = isinstance(error, OSError | RuntimeError | ValueError) and short
    return short if named else f'{type(error).__name__}: {short}'


def printable(text: object) -> str:
    """Return a text as one line that can be printed and written anywhere.

    File names may contain line breaks and bytes that are not UTF-8: unprintable
    characters are escaped.
    """
    return ''.join(c if c.isprintable() else _escape(c) for c in str(text))


def print_error(line: str) -> None:
    """Print a line to standard error, in one piece.

    `print` writes the line's end by itself where Python does not buffer: those of
    several processes would end up in one line, and empty ones behind it.

    Args:
        line: A printable text.
    """
    sys.stderr.write(f'{line}\n')


def _escape(character: str) -> str:
    if '\udc80' <= character <= '\udcff':  # a byte that Python could not decode
        return f'\\x{ord(character) - 0xDC00:02x}'
    return character.encode('unicode_escape').decode()


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Its import name.
        extra: The extra of mmmeta-backbones that installs it.
        what: What needs it, for the error.

    Raises:
        MissingLibraryError: It cannot be imported; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f'{what} needs {module.partition(".")[0]}, which cannot be imported '
            f"({error}): pip install 'mmmeta-backbones[{extra}]'"
        ) from error
