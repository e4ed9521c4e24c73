"""The error of a wrong argument, and the one of a missing optional library."""

from importlib import import_module
from types import ModuleType


class UserError(RuntimeError):
    """A wrong argument or a missing file: shown as one line, without a traceback."""


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: Its import name.
        extra: The extra of mmmeta-backbones that installs it.
        what: What needs it, for the error.

    Raises:
        UserError: It cannot be imported; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'{what} needs {module.partition(".")[0]}, which cannot be imported '
            f"({error}): pip install 'mmmeta-backbones[{extra}]'"
        ) from error
