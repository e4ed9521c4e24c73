"""`mmmeta data`: its report, its JSON, its picture, its exit status."""

import json
import subprocess
import sys

import numpy as np
import pytest
from data_sets import making
from data_sets.making import image, some_values, text
from PIL import Image

from mmmeta.cli import main
from mmmeta.data import read_data
from mmmeta.data.picture import picture


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder; the data set is elsewhere."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'here'


@pytest.mark.parametrize('name', making.ALL)
def test_json(tmp_path, name, capsys, here):
    root = making.ALL[name](tmp_path / 'data')
    assert main(['data', str(root), '--json']) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert printed.err == ''
    assert facts['format'] == name
    splits = ['train'] if name == 'labelme' else ['train', 'val']
    assert list(facts['splits']) == splits
    for split in facts['splits'].values():
        assert split['images'] == (4 if name == 'folders' else 2)
        assert split['sizes']['median'] == [40, 30]
        assert set(split['counts']) == set(facts['classes'])
    assert facts['classes'] == (['0', '1', '2'] if name == 'png' else ['cat', 'dog'])
    assert facts['problems'] == []
    assert list(here.iterdir()) == []  # no picture unless asked for


def test_report(tmp_path, capsys, here):
    root = making.coco(tmp_path / 'data')
    assert main(['data', str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{root}: coco, boxes, 2 classes'
    assert lines[1] == (
        'train (instances_train.json): 2 images; 40x30; '
        '4 boxes, 2 to 2 an image, mean 2'
    )
    assert lines[5].split() == ['0', 'cat', '2', '2']
    assert lines[-2:] == ['no problems', 'wrote data.png']
    with Image.open(here / 'data.png') as drawn:
        assert drawn.size == (960, 400)


def test_problems_set_the_exit_status(tmp_path, capsys):
    root = making.coco(tmp_path / 'data')
    image(root / 'train/more.jpg')
    assert main(['data', str(root)]) == 0  # a warning
    assert '\nwarning: train/more.jpg: image without' in capsys.readouterr().out
    (root / 'val/1.jpg').unlink()
    assert main(['data', str(root), '--json']) == 1
    problems = json.loads(capsys.readouterr().out)['problems']
    assert [p['severity'] for p in problems] == ['error', 'warning']
    assert set(problems[0]) == {'kind', 'severity', 'path', 'count', 'text'}
    assert main(['data', str(root)]) == 1
    assert '\nerror: annotations/instances_val.json image 2' in capsys.readouterr().out


def test_unknown_content_is_one_line(tmp_path, capsys):
    image(tmp_path / 'data/x.jpg')
    assert main(['data', str(tmp_path / 'data'), '--json']) == 1
    printed = capsys.readouterr()
    assert printed.out == '' and printed.err.count('\n') == 1
    assert 'is no data set of a known format: it contains 1 .jpg' in printed.err


@pytest.mark.parametrize('to', ['coco', 'png'])
def test_conversion(tmp_path, to, capsys):
    root = making.png(tmp_path / 'data', some_values(0, 255))
    new = tmp_path / 'new'
    assert main(['data', str(root), '--to', to, '-o', str(new)]) == 1
    printed = capsys.readouterr().out
    assert '\nerror: maps have the values 0 and 255; these are read' in printed
    assert f'\nwrote {new}\n' in printed
    assert main(['data', str(new), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['format'] == to
    first = [] if to == 'coco' else ['background']
    assert facts['classes'] == [*first, 'foreground']
    assert main(['data', str(root), '--to', to, '-o', str(new)]) == 1
    assert 'expected an empty folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--to', 'coco'], '--to needs -o FOLDER'),
        (['-o', 'x'], '--to needs -o FOLDER'),
        (['--picture', 'x.pdf'], '--picture must end in .png or .jpg, got x.pdf'),
        (['--picture', '{root}/train/0.jpg'], 'is a file of the data set'),
    ],
)
def test_wrong_options(tmp_path, words, message, capsys):
    root = making.coco(tmp_path / 'data')
    words = [word.format(root=root) for word in words]
    assert main(['data', str(root), *words]) == 1
    assert message in capsys.readouterr().err


def test_the_picture(tmp_path, here, capsys, monkeypatch):
    root = making.coco(tmp_path / 'data')
    assert main(['data', str(root), '--json', '--picture', 'x.jpg']) == 0
    assert 'wrote x.jpg' in capsys.readouterr().err
    with Image.open('x.jpg') as drawn:
        assert drawn.format == 'JPEG'
    image(here / 'data.png')
    mine = (here / 'data.png').read_bytes()
    assert main(['data', str(root)]) == 0
    assert 'no picture: data.png is another file' in capsys.readouterr().out
    assert (here / 'data.png').read_bytes() == mine
    assert main(['data', str(root), '--picture', 'data.png']) == 0
    assert main(['data', str(root)]) == 0  # its own is replaced
    assert 'wrote data.png' in capsys.readouterr().out
    monkeypatch.chdir(root)
    assert main(['data', '.']) == 0
    assert 'no picture inside of the data set' in capsys.readouterr().out
    assert not (root / 'data.png').exists()


@pytest.mark.parametrize('name', making.ALL)
def test_pictures_show_the_annotations(tmp_path, name):
    """The drawn pixels differ from the image only where annotations are."""
    data = read_data(making.ALL[name](tmp_path))
    drawn = picture(data)
    assert drawn.height == 400 and drawn.width in (960, 1920)
    pixels = np.asarray(drawn)
    assert (pixels != 255).any(-1).mean() > 0.5


def test_a_bar_only_on_a_terminal(tmp_path):
    root = making.coco(tmp_path / 'data')
    done = subprocess.run(
        [sys.executable, '-m', 'mmmeta.cli', 'data', str(root), '--json'],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')


def test_nothing_heavy_is_imported(tmp_path):
    root = making.coco(tmp_path / 'data')
    code = (
        'import sys; from mmmeta.cli import main\n'
        f'main(["data", {str(root)!r}])\n'
        'heavy = {"torch", "mmcv", "mmdet", "mmseg", "cv2", "matplotlib"}\n'
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_names_that_cannot_be_printed(tmp_path, capsys):
    root = making.folders(tmp_path / 'data')
    for split in ('train', 'val'):
        (root / split / 'cat').rename(root / split / 'a\nb')
    text(root / 'train/a\nb/x.jpg', 'x')
    assert main(['data', str(root)]) == 1
    printed = capsys.readouterr().out
    assert 'a\\nb/x.jpg' in printed
    assert 'a\nb' not in printed
