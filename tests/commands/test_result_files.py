"""Which images `mmmeta predict` takes, and what it calls the files that it writes."""

import os
from pathlib import Path

import pytest
from predictions import predict, rows_of, strictly
from tiny_models import write_picture

from mmmeta.commands.predict.inputs import list_images, output_stems
from mmmeta.errors import UserError

# -- names of files ---------------------------------------------------------------

ODD_NAMES = [
    b'caf\xe9.png',
    b'new\nline.png',
    b'return\rit.png',
    b'a,b"c\'.png',
    b'#1 [x]*?$\\.png',
    b'-dash.png',
    b'A.png',
    b'a.png',
    b'a.PNG',
    b'a.jpg.png',
    b'%s %d {}.png',
    'bücher \N{CAT FACE}.png'.encode(),
    b'n' * 251 + b'.png',
    b'n' * 251 + b'.PNG',
]


def test_names_of_files_lose_no_result(classifier, segmentor, tmp_path, capsys):
    data = write_picture(tmp_path / 'x.png').read_bytes()
    (tmp_path / 'in').mkdir()
    source = os.fsencode(tmp_path / 'in')
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(source, name))).write_bytes(data)
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b'/out\xff'))
    assert predict(*classifier, tmp_path / 'in', out=out) == 0
    rows = rows_of(out / 'top5.csv')
    assert len(rows) == 3 * len(ODD_NAMES)
    assert {os.fsencode(row['file']) for row in rows} == set(ODD_NAMES)
    assert len(os.listdir(out / 'vis')) == len(ODD_NAMES)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f'{tmp_path}/out\\xff/top5.csv: ')
    assert predict(*segmentor, tmp_path / 'in', '--no-vis', out=out) == 0
    maps = os.listdir(os.fsencode(out / 'maps'))
    assert len(maps) == len(ODD_NAMES)
    assert b'caf\xe9.png.png' in maps


def test_names_in_json_and_errors(detector, tmp_path, capsys):
    write_picture(tmp_path / 'x.png')
    (tmp_path / 'in').mkdir()
    source = os.fsencode(tmp_path / 'in')
    good, bad = (os.fsdecode(source + name) for name in (b'/\xff.png', b'/\n\xfe.png'))
    os.rename(tmp_path / 'x.png', good)
    Path(bad).touch()
    assert predict(*detector, tmp_path / 'in', out=tmp_path / 'out') == 1
    (image,) = strictly(tmp_path / 'out/images.json')['images']
    assert os.fsencode(image['file_name']) == b'\xff.png'
    assert len(strictly(tmp_path / 'out/detections.json')) == 8
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f'{tmp_path}/in/\\n\\xfe.png: ')
    assert lines[1:] == ['1 of 2 images failed']


def test_results_do_not_meet():
    assert output_stems(['A.png', 'a.png']) == ['A', 'a']
    assert output_stems(['A.png', 'a.png'], ignore_case=True) == ['A', 'a~2']
    assert output_stems(['x.jpg', 'x.png', 'y.png']) == ['x.jpg', 'x.png', 'y.png']
    # maps/x.png cannot be a folder and a map.
    assert output_stems(['x.jpg', 'x.png/y.jpg']) == ['x~2', 'x.png/y']
    long = ['d/' + 'n' * 251 + ending for ending in ('.png', '.PNG')]
    assert output_stems(long) == ['d/' + 'n' * 251, 'd/' + 'n' * 249 + '~2']


# -- which images -----------------------------------------------------------------


def names_in(found: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in found]


def test_links_to_folders_are_followed(tmp_path):
    for name in ('in/real/a.png', 'in/z/b.png', 'other/deep/c.png', 'other/d.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'in/again').symlink_to('real')  # sorts before what it is
    (tmp_path / 'in/loop').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/up').symlink_to('..')
    (tmp_path / 'in/out').symlink_to(tmp_path / 'other')
    (tmp_path / 'other/back').symlink_to(tmp_path / 'in/z')
    (tmp_path / 'in/gone.png').symlink_to('nothing')
    (tmp_path / 'link').symlink_to('in')
    expected = ['gone.png', 'out/d.png', 'out/deep/c.png', 'real/a.png', 'z/b.png']
    for root in ('in', 'link'):
        found = list_images([str(tmp_path / root)], tmp_path / 'predictions')
        assert names_in(found, tmp_path / root) == expected
    twice = [str(tmp_path / 'link/real/a.png'), str(tmp_path / 'in')]
    found = list_images(twice, tmp_path / 'predictions')
    assert len(found) == 5 and found[0] == tmp_path / 'link/real/a.png'


def test_what_links_find_in_the_output_folder_is_no_input(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'out/vis').mkdir(parents=True)
    for name in ('in/a.png', 'out/vis/a.jpg'):
        (tmp_path / name).touch()
    (tmp_path / 'in/drawn').symlink_to(tmp_path / 'out')
    (tmp_path / 'in/b.jpg').symlink_to(tmp_path / 'out/vis/a.jpg')
    (tmp_path / 'alias').symlink_to('out')
    for out in ('out', 'alias'):
        found = list_images([str(tmp_path / 'in')], tmp_path / out)
        assert names_in(found, tmp_path / 'in') == ['a.png']
    with pytest.raises(UserError, match='is inside --out-dir'):
        list_images([str(tmp_path / 'out')], tmp_path / 'alias')


def test_no_input_is_written_over(classifier, tmp_path, capsys):
    image = write_picture(tmp_path / 'vis/a.jpg')
    before = image.read_bytes()
    assert predict(*classifier, image, out=tmp_path) == 1
    err = capsys.readouterr().err
    assert 'would be overwritten but is an input' in err and err.count('\n') == 1
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ('task', 'wrong', 'is_folder', 'message'),
    [
        ('segmentor', 'maps', False, 'maps: File exists'),
        ('segmentor', 'vis', False, 'vis: File exists'),
        ('segmentor', 'classes.csv', True, 'classes.csv is a folder'),
        ('classifier', 'top5.csv', True, 'top5.csv is a folder'),
        ('detector', 'images.json', True, 'images.json is a folder'),
        ('detector', 'detections.jsonl.part', True, '.part: Is a directory'),
    ],
)
def test_what_is_in_the_way_is_said_first(
    task, wrong, is_folder, message, tmp_path, capsys, request
):
    image = write_picture(tmp_path / 'a.png')
    path = tmp_path / 'out' / wrong
    (path if is_folder else path.parent).mkdir(parents=True)
    if not is_folder:
        path.touch()
    model = request.getfixturevalue(task)
    assert predict(*model, image, out=tmp_path / 'out') == 1
    out, err = capsys.readouterr()
    assert out == '' and message in err.splitlines()[-1]
