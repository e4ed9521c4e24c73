"""Listing the files in a folder whose links may form cycles; linking files."""

import os
import shutil
from pathlib import Path

from mmmeta.errors import UserError


def files_in(root: str | Path, by_name: bool = False) -> list[Path]:
    """Return the files in a folder, including those in linked folders.

    Each folder is visited once, by its own path rather than a link's, and links to a
    folder that contains them are skipped.

    Args:
        root: The folder.
        by_name: Visit a folder with several names (by links) once for each name.
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


def link_or_copy(source: str | Path, target: Path) -> None:
    """Let `target` be another name of a file, or a copy where that is not possible.

    Missing folders are created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)


def is_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path is a folder or inside it, after resolving links."""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return f'{inner}/'.startswith(f'{outer.rstrip("/")}/')


def _leads_up(link: str) -> bool:
    return is_in(os.path.dirname(link), link)


def _refuse(error: OSError) -> None:
    raise UserError(f'{error.filename} cannot be read: {error.strerror}') from error
