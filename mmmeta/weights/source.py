"""Where a checkpoint can be downloaded from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One address of a checkpoint.

    Attributes:
        url: Where it is.
        sha256: Its SHA-256 in hex or the first digits of it; None where unknown.
        size: Its size in bytes; None where unknown.
        file: The file's name in the cache. Default: the last part of the address; a
            model hub's are all called alike, so theirs has the repository's name.
        drive_id: Its id on Google Drive; '' where it is elsewhere.
    """

    url: str
    sha256: str | None = None
    size: int | None = None
    file: str = ''
    drive_id: str = ''

    def __post_init__(self) -> None:
        if not self.file:
            object.__setattr__(self, 'file', _file_of(self.url))


def _file_of(url: str) -> str:
    parts = url.split('?')[0].rstrip('/').split('/')
    if 'resolve' in parts and parts[-1] == 'model.safetensors':
        return f'{parts[parts.index("resolve") - 1]}.safetensors'
    return parts[-1]


def drive(drive_id: str, file: str) -> Source:
    """Return the address of a file on Google Drive, which has no name of its own."""
    url = f'https://drive.google.com/file/d/{drive_id}/view'
    return Source(url, file=file, drive_id=drive_id)


def hugging_face(repository: str, path: str) -> Source:
    """Return the address of a file on Hugging Face."""
    return Source(f'https://huggingface.co/{repository}/resolve/main/{path}')
