"""Selection of input images and names of output files."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from mmmeta.errors import UserError

SUFFIXES = ['.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']


def list_images(inputs: Sequence[str], out_dir: Path) -> list[Path]:
    """Return the input images without duplicates, in the given order.

    Args:
        inputs: Images, folders (searched recursively) and patterns with * or **. In
            folders and patterns, only files with an image extension are used.
        out_dir: Files in it are skipped: pictures of an earlier run are not inputs.

    Raises:
        UserError: One of the inputs has no images.
    """
    found: dict[str, Path] = {}
    out = os.path.abspath(out_dir) + os.sep
    for text in inputs:
        path = Path(text)
        if path.is_file():
            images = [path]
        else:
            matches = [text] if path.is_dir() else glob.glob(text, recursive=True)
            inside = [file for match in matches for file in _inside(Path(match))]
            images = sorted(p for p in inside if not os.path.abspath(p).startswith(out))
        if not images:
            kind = 'a folder without images' if path.is_dir() else 'missing'
            raise UserError(
                f'no input: {text} is {kind}; expected images '
                f'({", ".join(SUFFIXES)}), folders of them or patterns'
            )
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def _inside(path: Path) -> list[Path]:
    files = path.rglob('*') if path.is_dir() else [path]
    return [
        file
        for file in files
        if file.suffix.lower() in SUFFIXES
        and not file.name.startswith('.')
        and file.is_file()
    ]


def relative_names(paths: Sequence[Path]) -> list[str]:
    """Return the images' paths relative to their common folder."""
    full = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in full])
    return [PurePath(os.path.relpath(path, root)).as_posix() for path in full]


def output_stems(names: Sequence[str]) -> list[str]:
    """Return unique names of the images' output files, without their extension.

    This is the image's name without its extension, or with it if two images differ
    only in that.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    return stems if len(set(stems)) == len(stems) else list(names)
