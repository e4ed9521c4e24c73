"""Images of any kind, whole and damaged: the right pixels, or one clear error."""

import io

import numpy as np
from generated.examples import generated
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from mmmeta.errors import UserError
from mmmeta.hosts.images import read_image, upright

SIZES = st.sampled_from(
    [(1, 1), (1, 40), (40, 1), (20_000, 3), (3, 20_000), (33, 20), (64, 64)]
)
# By format, the modes that it stores, and whether it keeps every value.
MODES = {
    'png': (['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'], True),
    'bmp': (['1', 'L', 'P', 'RGB'], True),
    'tiff': (['1', 'L', 'RGB', 'RGBA', 'CMYK', 'I;16', 'F'], True),
    'jpeg': (['L', 'RGB', 'CMYK'], False),
    'webp': (['RGB', 'RGBA'], False),
    'ppm': (['L', 'RGB'], True),
}
FORMS = st.sampled_from([(f, m) for f, (modes, _) in MODES.items() for m in modes])
TURNED = {  # by EXIF's orientation
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def make(form: str, mode: str, size: tuple[int, int], turn: int, seed: int) -> bytes:
    width, height = size
    rng = np.random.default_rng(seed)
    if mode == 'I;16':
        values = rng.integers(0, 1 << 16, (height, width), np.uint16)
        picture = Image.fromarray(values)
    else:
        # Coarse, so that lossy formats keep it.
        values = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        values = np.kron(values, np.ones((8, 8, 1), np.uint8))[:height, :width]
        picture = Image.fromarray(values).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    content = io.BytesIO()
    options = {} if form in ('bmp', 'ppm') else dict(exif=exif)
    picture.save(content, form, **options)
    return content.getvalue()


@generated
@given(FORMS, SIZES, st.sampled_from([*TURNED]), st.integers(0, 99))
@example(('webp', 'RGB'), (33, 20), 6, 0)
@example(('tiff', 'L'), (33, 20), 5, 0)
def test_whole_images(tmp_path, kind, size, turn, seed):
    form, mode = kind
    assume(form != 'webp' or max(size) < 1 << 14)  # its limit
    path = tmp_path / f'x.{form}'
    path.write_bytes(make(form, mode, size, turn, seed))
    try:
        found = read_image(path)
    except ValueError as error:
        assert str(error) == 'OpenCV cannot read this format'
        assert mode == 'F'
        return
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.load()
    ours = np.asarray(upright(path))
    turned = TURNED[1 if form in ('bmp', 'ppm') else turn]
    assert found.dtype == ours.dtype == np.uint8
    assert found.shape == ours.shape == (*turned(np.empty(size[::-1])).shape, 3)
    # Decoders may round lossy formats and colors of inks differently.
    most = 0 if mode in ('L', 'RGB', '1', 'P') and MODES[form][1] else 3
    assert np.abs(found[..., ::-1].astype(int) - ours).mean() <= most
    if mode != 'I;16':
        expected = np.asarray(picture.convert('RGB'))
        expected = expected if form == 'tiff' else turned(expected)  # by Pillow
        assert np.abs(ours.astype(int) - expected).mean() <= most


@generated
@given(FORMS, st.sampled_from([(33, 20), (64, 64)]), st.data())
def test_damaged_images(tmp_path, kind, size, data):
    form, mode = kind
    content = bytearray(make(form, mode, size, 1, 0))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f'x.{form}'
    path.write_bytes(content)
    for read in (read_image, upright):
        try:
            found = np.asarray(read(path))
        except (ValueError, UserError) as error:
            assert str(error) and '\n' not in str(error)
            continue
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        with Image.open(path) as picture:
            assert {*found.shape[:2]} == {*picture.size}
