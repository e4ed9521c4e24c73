"""Reading images: what is refused, and why."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmmeta.data.images import inspect
from mmmeta.hosts.images import load_picture, read_image, upright


def claim(path: Path, width: int, height: int) -> Path:
    """Write a small file that says it is a large picture."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk + b'\x00\x00\x00\x00IDAT')
    return path


def test_too_many_pixels_are_refused_with_the_way_out(tmp_path, monkeypatch):
    path = claim(tmp_path / 'a.png', 20000, 17900)
    with pytest.raises(ValueError, match='20000x17900') as error:
        read_image(path)
    assert str(error.value) == (
        '20000x17900 are 358,000,000 pixels, more than the limit of 178,956,970; '
        'MMMETA_MAX_PIXELS=358000000 raises it'
    )
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '358000000')
    with pytest.raises(ValueError, match='truncated'):
        load_picture(path)
    Image.new('RGB', (20, 10)).save(tmp_path / 'b.png')
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '199')
    with pytest.raises(ValueError, match='20x10 are 200 pixels'):
        read_image(tmp_path / 'b.png')
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '200')
    assert read_image(tmp_path / 'b.png').shape == (10, 20, 3)
    assert Image.MAX_IMAGE_PIXELS == limit is not None
    monkeypatch.setenv('MMMETA_MAX_PIXELS', 'many')
    with pytest.raises(RuntimeError, match="must be a number of pixels, got 'many'"):
        read_image(tmp_path / 'b.png')


@pytest.mark.parametrize('ending', ['bmp', 'jpg', 'pgm', 'png', 'ppm', 'tif', 'webp'])
def test_files_that_are_damaged_anywhere(ending, tmp_path, monkeypatch):
    """Whatever a decoder raises is one kind of error."""
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '100000')
    noise = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / f'a.{ending}'
    Image.fromarray(noise).convert('L' if ending == 'pgm' else 'RGB').save(path)
    assert read_image(path).shape == (20, 30, 3)
    assert load_picture(path).convert('RGB').size == (30, 20)
    data = path.read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(data[: random.randint(1, len(data))])
        for place in random.randint(0, min(len(broken), 80), 4):
            broken[place] = random.randint(256)
        path.write_bytes(broken)
        try:
            read_image(path)
        except ValueError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize('ending', ['jpg', 'webp'])
def test_damaged_exif_data_turn_nothing(ending, tmp_path):
    """As OpenCV does; Pillow raises a SyntaxError."""
    path = tmp_path / f'a.{ending}'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 20), 'red').save(path, exif=exif)
    assert read_image(path).shape == (30, 20, 3)
    content = path.read_bytes()
    header = exif.tobytes()[6:14]
    assert content.count(header) == 1
    path.write_bytes(content.replace(header, header[:3] + b'?' + header[4:]))
    assert read_image(path).shape == np.asarray(upright(path)).shape == (20, 30, 3)
    assert inspect(path)[:4] == (30, 20, 1, '')
