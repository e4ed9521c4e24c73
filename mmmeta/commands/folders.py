"""Which files are in a folder, where links between folders may go in circles."""

import os
from pathlib import Path

from mmmeta.errors import UserError


def files_in(root: str | Path, by_name: bool = False) -> list[Path]:
    """Return the files in a folder, and in the folders that links in it lead to.

    Each folder counts once, under its own path rather than a link's, and a link to
    where it is itself inside is left out.

    Args:
        root: The folder.
        by_name: A folder that links give another name counts once for each name.
            Default: False.

    Raises:
        UserError: A folder cannot be read.
    """
    seen: set[tuple[str, str]] = set()
    files: list[Path] = []

    def is_new(folder: str) -> bool:
        name = os.path.basename(folder) if by_name else ''
        key = os.path.realpath(folder), name
        new = key not in seen
        seen.add(key)
        return new

    waiting = [str(root)]
    while waiting:
        links: list[str] = []
        for start in filter(is_new, waiting):
            for here, folders, names in os.walk(start, onerror=_refuse):
                files += [Path(here, name) for name in names]
                paths = {name: os.path.join(here, name) for name in sorted(folders)}
                links += [path for path in paths.values() if os.path.islink(path)]
                folders[:] = [
                    name
                    for name, path in paths.items()
                    if not os.path.islink(path) and is_new(path)
                ]
        waiting = sorted(link for link in links if not _leads_up(link))
    return files


def is_in(path: str | Path, folder: str | Path) -> bool:
    """Return whether a path is a folder, or in it, whatever links lead there."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return f'{inner}/'.startswith(f'{outer.rstrip("/")}/')


def _leads_up(link: str) -> bool:
    return is_in(os.path.dirname(link), link)


def _refuse(error: OSError) -> None:
    raise UserError(f'{error.filename} cannot be read: {error.strerror}') from error
