"""Identifying files that are not checkpoints, for error messages."""

import zipfile
from collections.abc import Collection
from typing import BinaryIO

from mmmeta.weights.errors import first_few

HEAD = 512  # bytes needed to identify a file type
AGAIN = 'Delete it and download it again'
# How a file begins, what it then is, and what to do.
_UNPACK = 'Unpack it, and pass the checkpoint in it'
_SIGNS = (
    (b'version https://git-lfs', 'a Git LFS pointer, not the file', 'git lfs pull'),
    (b'\x1f\x8b', 'a gzip archive', _UNPACK),
    (b'BZh', 'a bzip2 archive', _UNPACK),
    (b'\xfd7zXZ\0', 'an xz archive', _UNPACK),
    (b"7z\xbc\xaf'\x1c", 'a 7z archive', _UNPACK),
    (b'Rar!', 'a rar archive', _UNPACK),
    (b'\x28\xb5\x2f\xfd', 'a zstd archive', _UNPACK),
    (b'\x89HDF', 'an HDF5 file, as Keras writes', ''),
    (b'\x93NUMPY', 'a NumPy array', ''),
    (b'GGUF', 'a GGUF file', ''),
    (b'\x89PNG', 'a picture', ''),
    (b'\xff\xd8\xff', 'a picture', ''),
)  # fmt: skip
_WEB_PAGES = (b'<!doctype', b'<html', b'<?xml', b'<head', b'<error')


def problem(file: BinaryIO) -> str | None:
    """Return why a file cannot be a checkpoint and what to do; None if it may be one.

    Args:
        file: The file; its position is reset to the start.
    """
    head = file.read(HEAD)
    file.seek(0)
    text = head.lstrip()[:64].lower()
    if not head:
        return f'is empty. {AGAIN}'
    if text.startswith(_WEB_PAGES):
        return f'is a web page saved under that name, not a checkpoint. {AGAIN}'
    for sign, what, advice in _SIGNS:
        if head.startswith(sign):
            return f'is {what}. {advice}'.rstrip(' .')
    if head[257:262] == b'ustar':
        return f'is a tar archive. {_UNPACK}'
    if head.startswith(b'PK'):
        return _problem_of_zip(file)
    if text.startswith((b'{', b'[')):
        return 'is a JSON file, such as the index of a sharded checkpoint'
    if all(32 <= byte < 127 or byte in b'\t\r\n' for byte in head):
        return 'is a text file'
    return None


def _problem_of_zip(file: BinaryIO) -> str | None:
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return f'is truncated. {AGAIN}'
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f'is a damaged zip archive ({error}). {AGAIN}'
    finally:
        file.seek(0)
    return _problem_of_names(names)


def _problem_of_names(names: Collection[str]) -> str | None:
    """Return what a zip archive is, according to the names in it; None if valid."""
    if any(name.split('/')[-1] == 'constants.pkl' for name in names):
        return (
            'is a TorchScript archive, which is a program, not a checkpoint. Load it '
            'with torch.jit.load in your own script, and torch.save its '
            'state_dict()'
        )
    if any(name.split('/')[1:] == ['data.pkl'] or name == 'data.pkl' for name in names):
        return None
    if any(name.split('/')[-1] == 'archive_format' for name in names):
        return 'is an exported program (.pt2), not a checkpoint'
    files = [name for name in names if not name.endswith('/')]
    return f'is a zip archive of other files ({first_few(files)}). {_UNPACK}'
