"""The files of a data set, listed once."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from mmmeta.data.folders import files_in
from mmmeta.data.model import SPLITS

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.jfif'}
# A file in folders that `mmmeta finetune` fills; they may be inside of a data set.
MARKER = '.mmmeta'
_SPLIT = re.compile(
    r'(?<![a-z])(?:(?P<train>train(?:ing|val)?)|(?P<val>val(?:id(?:ation)?)?|dev)'
    r'|(?P<test>test(?:ing)?))(?![a-z])'
)
# Folders such as `trainannot`.
_SPLIT_OF_NAME = re.compile(
    r'^(?:(?P<train>train)|(?P<val>val)|(?P<test>test))(?=annot|mask|label|im|data|set)'
)


class Tree:
    """The files in a folder, by paths relative to it, with slashes.

    Hidden files, those that archives of macOS contain and results are left out.

    Args:
        root: The folder.

    Raises:
        UserError: A folder in it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        start = 0 if root == Path() else len(str(root).rstrip(os.sep)) + 1
        names = [str(path)[start:] for path in files_in(root, by_name=True)]
        made = {os.path.dirname(x) for x in names if os.path.basename(x) == MARKER}
        inside = tuple(f'{folder}{os.sep}' for folder in made if folder)
        if inside:
            names = [name for name in names if not name.startswith(inside)]
        self.files = sorted(
            name.replace(os.sep, '/') for name in names if not _is_hidden(name)
        )
        self.known = set(self.files)

    def having(self, *suffixes: str) -> list[str]:
        """Return the files with one of some suffixes, given in lower case."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    @cached_property
    def images(self) -> list[str]:
        """The files with the suffix of an image."""
        return [name for name in self.files if suffix_of(name) in SUFFIXES]

    @cached_property
    def by_base(self) -> dict[str, list[str]]:
        """The images by their name without folders, in lower case."""
        found = defaultdict(list)
        for name in self.images:
            found[base(name).lower()].append(name)
        return found

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The images by their path without the suffix."""
        found = defaultdict(list)
        for name in self.images:
            found[stem(name)].append(name)
        return found

    def relative(self, path: Path) -> str:
        """Return a path relative to the root; with `..` if it is outside."""
        return os.path.relpath(path, self.root).replace(os.sep, '/')


def _is_hidden(name: str) -> bool:
    return any(p.startswith('.') or p == '__MACOSX' for p in name.split(os.sep))


def suffix_of(name: str) -> str:
    """Return the suffix of a name, in lower case."""
    return PurePosixPath(name).suffix.lower()


def stem(name: str) -> str:
    """Return a path without its suffix."""
    head, dot, tail = name.rpartition('.')
    return head if dot and '/' not in tail else name


def base(name: str) -> str:
    """Return the last part of a path."""
    return name.rpartition('/')[2]


def folder(name: str) -> str:
    """Return a path without its last part; '' if there is no other."""
    return name.rpartition('/')[0]


def common_folder(names: Iterable[str]) -> str:
    """Return the folder that all of some files are in; '' if that is the root."""
    folders = {folder(name) for name in names}
    return os.path.commonpath(folders) if folders and '' not in folders else ''


def split_of(name: str) -> tuple[str, str]:
    """Return the split that a path is of, and what that is called there.

    The last part of the path that says it counts: `train`, `training`, `trainval`,
    `val`, `valid`, `validation`, `dev`, `test`, also within a name as in
    `instances_train2017.json` or `trainannot`.

    Returns:
        'train', 'val' or 'test', and the part of the path; ('', '') if none says it.
    """
    for part in reversed(name.split('/')):
        found = _SPLIT.search(part.lower())
        if found is None and '.' not in part:
            found = _SPLIT_OF_NAME.search(part.lower())
        if found and found.lastgroup:
            return found.lastgroup, part
    return '', ''


def in_order(splits: dict) -> dict:
    """Return a dictionary of splits with training first."""
    return {name: splits[name] for name in SPLITS if name in splits}
