"""Reading images like the host libraries, with errors that say what is wrong."""

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmmeta.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Pillow's own limit: a small file may claim a size that exceeds the memory.
MAX_PIXELS = 178_956_970
ORIENTATION = 0x0112  # in EXIF data; 1 is upright
VARIABLE = 'MMMETA_MAX_PIXELS'
_LOCK = threading.Lock()


@dataclass(frozen=True)
class TarImage(os.PathLike):
    """An image in a tar file, whose path is ARCHIVE/MEMBER.

    Attributes:
        archive: The tar file, not compressed.
        member: The image's name in it.
        offset: Where its bytes begin in the archive.
        size: How many they are.
    """

    archive: Path
    member: str
    offset: int
    size: int

    def __fspath__(self) -> str:
        return f'{self.archive}/{self.member}'

    __str__ = __fspath__

    def read_bytes(self) -> bytes:
        """Return the image file's content."""
        with self.archive.open('rb') as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_image(path: str | os.PathLike, channels: int = 3) -> 'np.ndarray':
    """Read an image as the host libraries do, rotated according to its EXIF data.

    They do not rotate WebP images; this does.

    Args:
        path: The file.
        channels: How many the model takes. Up to 3, any image is read as a color image;
            of a file with more, all are read, and not turned. Default: 3.

    Returns:
        (H, W, 3), uint8, BGR; (H, W, channels) if there are more than 3.

    Raises:
        ValueError: It cannot be read, is truncated, has too many pixels or another
            number of channels; says why.
        UserError: The limit of pixels is not a number.
    """
    import numpy as np

    # OpenCV only fills the missing part of a truncated file with gray.
    picture = load_picture(path)
    try:
        # OpenCV turns all formats but this.
        turned = picture.format == 'WEBP' and orientation(picture) != 1
        if channels <= 3 and turned:
            return np.asarray(upright(path))[..., ::-1].copy()
        pixels = _decode(path, channels <= 3)
    except Exception as error:  # OpenCV has its own limits
        raise ValueError(one_line(error)) from error
    if pixels is None:
        raise ValueError('OpenCV cannot read this format')
    found = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels > 3 and (found != channels or pixels.dtype != 'uint8'):
        raise ValueError(
            f'it has {found} channels of {pixels.dtype}, the model takes {channels} of '
            'uint8'
        )
    return pixels


def _decode(path: str | os.PathLike, color: bool) -> 'np.ndarray | None':
    """Return what OpenCV reads, or Pillow where there is no OpenCV; colors are BGR."""
    import numpy as np

    try:
        import cv2
    except ImportError:
        return np.asarray(upright(path))[..., ::-1]
    file = path if isinstance(path, TarImage) else Path(path)
    content = np.frombuffer(file.read_bytes(), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR if color else cv2.IMREAD_UNCHANGED)


def upright(path: str | os.PathLike) -> 'Image.Image':
    """Return a Pillow image, RGB of 8 bits, turned as its EXIF data say.

    Raises:
        ValueError: As `load_picture`, or its EXIF data cannot be written anew.
        UserError: As `load_picture`.
    """
    from PIL import ImageOps

    picture = load_picture(path)
    if picture.mode.startswith(('I', 'F')):  # 16 bits; Pillow would cut them off
        picture = picture.point(lambda value: value / 256).convert('L')
    if orientation(picture) != 1:
        try:
            picture = ImageOps.exif_transpose(picture)
        except Exception as error:  # it writes the other EXIF data anew
            raise ValueError(one_line(error)) from error
    return picture.convert('RGB')


def orientation(picture: 'Image.Image') -> int:
    """Return the orientation in a Pillow image's EXIF data, 1 to 8.

    It is 1, upright, where there is none that can be read: OpenCV ignores damaged data.
    """
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow may raise anything for damaged data
        return 1
    return value if value in range(1, 9) else 1


def to_jpeg(picture: 'np.ndarray') -> bytes:
    """Return a picture, uint8 (H, W, 3), BGR, as the content of a JPEG file.

    Raises:
        ValueError: It cannot be encoded, such as one of more than 65,535 pixels a side.
    """
    try:
        import cv2
    except ImportError:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(picture[..., ::-1]).save(file, 'jpeg', quality=95)
        return file.getvalue()
    ok, content = cv2.imencode('.jpg', picture)
    if not ok:
        raise ValueError('OpenCV cannot encode the picture')
    return content.tobytes()


def load_picture(path: str | os.PathLike) -> 'Image.Image':
    """Return a loaded Pillow image, with its file closed.

    Raises:
        ValueError: It cannot be read, is truncated or has too many pixels; says why.
        UserError: The limit of pixels is not a number.
    """
    limit = max_pixels()
    try:
        with open_picture(path) as image:
            width, height = image.size
            if width * height > limit:
                raise ValueError(
                    f'{width}x{height} are {width * height:,} pixels, more than the '
                    f'limit of {limit:,}; {VARIABLE}={width * height} raises it'
                )
            image.load()
            return image
    except Exception as error:  # decoders may raise anything for damaged files
        raise ValueError(one_line(error)) from error


def open_picture(path: str | os.PathLike) -> 'Image.Image':
    """Open an image of any size, without Pillow's own less informative limit."""
    from PIL import Image, ImageFile

    with _LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            if isinstance(path, TarImage):
                return Image.open(io.BytesIO(path.read_bytes()))
            image = Image.open(path)
            if image.format == 'TIFF' and isinstance(image, ImageFile.ImageFile):
                # Pillow would map the file to memory, and not turn it right.
                image.filename = ''
            return image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def max_pixels() -> int:
    """Return the largest number of pixels of an image that is read.

    Raises:
        UserError: The variable is not a number.
    """
    text = os.environ.get(VARIABLE) or str(MAX_PIXELS)
    if not text.isdigit():
        raise UserError(f'{VARIABLE} must be a number of pixels, got {text!r}')
    return int(text)
