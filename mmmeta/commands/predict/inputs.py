"""Selection of input images and names of output files."""

import glob
import os
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from mmmeta.commands.files import unique_name
from mmmeta.data.folders import files_in, is_in
from mmmeta.errors import UserError
from mmmeta.hosts.images import TarImage

SUFFIXES = ['.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
RESULT_SUFFIXES = {'vis': '.jpg', 'maps': '.png'}  # by folder


def list_images(inputs: Sequence[str], out_dir: Path) -> list[Path]:
    """Return the input images without duplicates, in the given order.

    Those of tar files are `TarImage`, which do for images what paths do.

    Args:
        inputs: Images, tar files of images, folders (searched recursively, including
            linked folders) and patterns with * or **. In folders and patterns, only
            files with an image extension are used, or tar files in a pattern.
        out_dir: Files in it are skipped: pictures of an earlier run are not inputs.

    Raises:
        UserError: One of the inputs has no images, or a folder cannot be read.
    """
    found: dict[tuple[str, str], Path] = {}
    for text in inputs:
        path = Path(text)
        inside: list[Path] = []
        if path.suffix == '.tar' and path.is_file():
            images = _in_tar(path)
        elif path.is_file():
            images = [path]
        else:
            matches = [text] if path.is_dir() else glob.glob(text, recursive=True)
            inside = [file for match in matches for file in _inside(Path(match))]
            images = sorted(p for p in inside if not is_in(p, out_dir))
            if not path.is_dir():
                tars = sorted(m for m in matches if m.endswith('.tar'))
                images += [image for tar in tars for image in _in_tar(Path(tar))]
        if not images:
            kind = 'a folder without images' if path.is_dir() else 'missing'
            if path.is_file():
                kind = 'a tar file without images'
            if path.is_dir() and inside:
                kind = f'inside --out-dir {out_dir}, where results go'
            raise UserError(
                f'no input: {text} is {kind}; expected images '
                f'({", ".join(SUFFIXES)}), folders of them or patterns'
            )
        for image in images:
            found.setdefault(_entry(image), image)
    return list(found.values())


def _in_tar(path: Path) -> list[Any]:
    """Return the images in a tar file, by name.

    Raises:
        UserError: It cannot be read, or is compressed.
    """
    try:
        with tarfile.open(path, 'r:') as file:
            return [
                TarImage(path, member.name, member.offset_data, member.size)
                for member in sorted(file, key=lambda member: member.name)
                if member.isfile()
                and os.path.splitext(member.name)[1].lower() in SUFFIXES
                and not os.path.basename(member.name).startswith('.')
            ]
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f'{path} cannot be read as a tar file ({error}); expected one that is not '
            'compressed'
        ) from error


def _inside(path: Path) -> list[Path]:
    files = files_in(path) if path.is_dir() else [path]
    return [
        file
        for file in files
        if file.suffix.lower() in SUFFIXES
        and not file.name.startswith('.')
        # A broken link is an unreadable image.
        and (file.is_file() or (file.is_symlink() and not file.exists()))
    ]


@cache
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _entry(path: str | Path) -> tuple[str, str]:
    """Return the real folder and the name, which identify a file."""
    folder, name = os.path.split(os.path.abspath(path))
    return _real(folder), name


def relative_names(paths: Sequence[Path]) -> list[str]:
    """Return the images' paths relative to their common folder."""
    full = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in full])
    return [PurePath(os.path.relpath(path, root)).as_posix() for path in full]


def output_stems(names: Sequence[str], ignore_case: bool = False) -> list[str]:
    """Return unique names of the images' output files, without their extension.

    This is the image's name without its extension, or with it if two images differ
    only in that. A name that is too long for a file is truncated, and one that would
    still collide is numbered: `x~2`.

    Args:
        names: Names of the images.
        ignore_case: Whether `x` and `X` are the same file. Default: False.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    if len(set(stems)) < len(stems):
        stems = list(names)
    room = max(map(len, RESULT_SUFFIXES.values()))
    folders = {str(parent) for name in names for parent in PurePath(name).parents}
    # A folder may have the name of a result: x.png/.
    taken = {
        folder.removesuffix(suffix)
        for folder in folders
        for suffix in RESULT_SUFFIXES.values()
        if folder.endswith(suffix)
    }
    taken = {name.casefold() for name in taken} if ignore_case else taken
    return [unique_name(stem, taken, room, ignore_case) for stem in stems]


def check_overwriting(
    paths: Sequence[Path], stems: Sequence[str], out_dir: Path
) -> None:
    """Check that no result would overwrite an input image.

    Raises:
        UserError: There is one.
    """
    inputs = {_entry(path) for path in paths}
    for folder, suffix in RESULT_SUFFIXES.items():
        for stem in stems:
            result = out_dir / folder / f'{stem}{suffix}'
            if _entry(result) in inputs:
                raise UserError(
                    f'{result} would be overwritten but is an input; choose another '
                    '--out-dir'
                )
