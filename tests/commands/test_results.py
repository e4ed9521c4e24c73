"""What `mmmeta predict` writes is neither altered nor lost.

By names of classes, by one bad image, by drawing, by an interruption, by a full disk.
"""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import lines_of, predict, rows_of, strictly
from tiny_models import write_model, write_picture

from mmmeta.hosts.predictor import Predictor

# A step of a pipeline that fails for images whose first pixel has a certain blue.
FAULTY = """
import os, signal
from mmpretrain.registry import TRANSFORMS as CLS
from mmdet.registry import TRANSFORMS as DET

@CLS.register_module()
@DET.register_module()
class Faulty:
    def __call__(self, results):
        blue = results['img'][0, 0, 0]
        if blue == 1:
            raise KeyError('too odd')
        if blue == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return results
"""
WITH_FAULTY = """
custom_imports = dict(imports=['faulty_step'])
pipeline.insert(1, dict(type='Faulty'))
test_dataloader.update(dataset=dict(test_dataloader['dataset'], pipeline=pipeline))
"""


# -- names of classes -------------------------------------------------------------


def test_map_values_are_kept_where_names_lack(segmentor, tmp_path, capsys):
    image = write_picture(tmp_path / 'a.png')
    assert predict(*segmentor, image, out=tmp_path / 'out') == 0
    picture = Image.open(tmp_path / 'out/maps/a.png')
    assert np.unique(np.asarray(picture)).tolist() == [5]
    assert (picture.mode, picture.getpalette()[:3]) == ('P', [1, 2, 3])
    rows = rows_of(tmp_path / 'out/classes.csv')
    assert [row['class'] for row in rows] == ['circle', 'cross', *'23456']
    assert capsys.readouterr().err == (
        f'{segmentor[1]}: 2 class names and 7 outputs: numbers replace missing names\n'
    )


def test_maps_of_over_256_classes(tmp_path, capsys):
    def last(model: torch.nn.Module) -> None:
        model.decode_head.conv_seg.bias.data[-1] = 1000.0

    names = dict(classes=tuple(f'c{i}' for i in range(200)))
    model = write_model(tmp_path, 'segmentation', 300, names, last)
    image = write_picture(tmp_path / 'a.png')
    assert predict(*model, image, '--no-vis', out=tmp_path / 'out') == 0
    values = np.asarray(Image.open(tmp_path / 'out/maps/a.png'))
    assert np.unique(values).tolist() == [299]
    assert len(rows_of(tmp_path / 'out/classes.csv')) == 300


def test_maps_of_two_classes_that_one_output_tells_apart(tmp_path, capsys):
    extra = 'model["decode_head"].update(out_channels=1, threshold=0.5)\n'
    names = dict(classes=('background', 'road'))
    model = write_model(tmp_path, 'segmentation', 2, names, extra=extra)
    assert predict(*model, write_picture(tmp_path / 'a.png'), out=tmp_path / 'o') == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / 'o/maps/a.png')))) <= {0, 1}
    assert [row['class'] for row in rows_of(tmp_path / 'o/classes.csv')] == [
        *names['classes']
    ]
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('classes', 'expected'),
    [
        (('cat', 'dog'), ['cat', 'dog', '2', '3']),
        (('', None, ' ', 7), ['0', '1', '2', '7']),
        (('x', 'x', 'a,"b"\n', '#'), ['x', 'x', 'a,"b"\n', '#']),
        ('cat', ['cat', '1', '2', '3']),
        (list('abcdef'), ['a', 'b', 'c', 'd']),
        (4, ['0', '1', '2', '3']),
    ],
    ids=['few', 'empty', 'odd', 'string', 'many', 'number'],
)
def test_scores_are_kept_whatever_the_names(classes, expected, tmp_path, capsys):
    meta = dict(classes=classes, palette=[(1, 2), 'red', (0, 0, 999), None])
    model = write_model(tmp_path, 'classification', 4, meta)
    image = write_picture(tmp_path / 'a.png')
    assert predict(*model, image, out=tmp_path / 'out') == 0
    rows = rows_of(tmp_path / 'out/top5.csv')
    assert len(rows) == 4
    assert [row['class'] for row in sorted(rows, key=lambda row: row['index'])] == (
        expected
    )
    assert (tmp_path / 'out/vis/a.jpg').is_file()
    known = classes if isinstance(classes, list | tuple) else [classes]
    lines = capsys.readouterr().err.splitlines()
    if len(known) == 4 or classes == 4:
        assert lines == []
    else:
        assert len(lines) == 1
        assert f'{len(known)} class names and 4 outputs' in lines[0]


def test_classes_of_one_name_keep_ids_of_their_own(detector, tmp_path, capsys):
    image = write_picture(tmp_path / 'a.png')
    assert predict(*detector, image, out=tmp_path / 'out') == 0
    ids = strictly(tmp_path / 'out/images.json')
    assert ids['categories'] == [
        dict(id=1, name='a'),
        dict(id=2, name='b'),
        dict(id=3, name='a'),
    ]
    assert len(strictly(tmp_path / 'out/detections.json')) == 8
    written = sorted(os.listdir(tmp_path / 'out'))
    assert written == ['detections.json', 'images.json', 'vis']
    ann_file = tmp_path / 'ann.json'
    content = dict(images=[dict(id=1, file_name='a.png')], categories=[])
    ann_file.write_text(json.dumps(content))
    capsys.readouterr()
    assert predict(*detector, image, '--ann-file', ann_file, out=tmp_path / 'o') == 1
    assert capsys.readouterr().err == (
        "mmmeta predict: the model has the class 'a' 2 times: --ann-file cannot "
        'distinguish them\n'
    )


def test_numbers_are_added_where_a_result_has_more_classes(
    detector, tmp_path, capsys, monkeypatch
):
    """Of a model that does not say how many there are."""
    monkeypatch.setattr('mmmeta.hosts.classes.num_outputs', lambda model: 0)
    model = write_model(tmp_path, 'detection', 9, dict(classes=('a', 'b')))
    image = write_picture(tmp_path / 'a.png')
    assert predict(*model, image, out=tmp_path / 'out') == 0
    found = strictly(tmp_path / 'out/detections.json')
    categories = strictly(tmp_path / 'out/images.json')['categories']
    highest = max(result['category_id'] for result in found)
    assert highest > 2 and (tmp_path / 'out/vis/a.jpg').is_file()
    names = ['a', 'b', *map(str, range(2, highest))]
    assert [category['name'] for category in categories] == names
    assert 'numbers replace' in capsys.readouterr().err


# -- one bad image ----------------------------------------------------------------


def test_a_failure_of_any_step_costs_one_image(tmp_path, capsys, monkeypatch):
    (tmp_path / 'faulty_step.py').write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    model = write_model(tmp_path, 'classification', 3, extra=WITH_FAULTY)
    for i, name in enumerate(('a', 'draw', 'model', 'pipeline', 'z')):
        write_picture(tmp_path / f'in/{name}.png', (40 + i, 40), seed=i)
    (tmp_path / 'in/broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    image = np.array(Image.open(tmp_path / 'in/pipeline.png'))
    image[0, 0, 2] = 1  # RGB
    Image.fromarray(image).save(tmp_path / 'in/pipeline.png')
    forward, draw = Predictor.forward, Predictor.draw

    def fail_in_model(self: Predictor, batch: dict) -> list:
        if any(sample.ori_shape[1] == 42 for sample in batch['data_samples']):
            raise RuntimeError('no such\nkernel')
        return forward(self, batch)

    def fail_in_drawing(self: Predictor, image: np.ndarray, *rest: object) -> object:
        if image.shape[1] == 41:
            raise ValueError('no font')
        return draw(self, image, *rest)

    monkeypatch.setattr(Predictor, 'forward', fail_in_model)
    monkeypatch.setattr(Predictor, 'draw', fail_in_drawing)
    status = predict(*model, tmp_path / 'in', '--batch-size', 3, out=tmp_path / 'out')
    assert status == 1
    out, err = capsys.readouterr()
    found = {row['file'] for row in rows_of(tmp_path / 'out/top5.csv')}
    assert found == {'a.png', 'draw.png', 'z.png'}
    assert sorted(os.listdir(tmp_path / 'out/vis')) == ['a.jpg', 'z.jpg']
    assert out.endswith('vis: 2 pictures\n')
    *lines, last = err.splitlines()
    assert last == '4 of 6 images failed'
    reasons = dict(line.split(': ', 1) for line in lines)
    assert {Path(path).name: reason for path, reason in reasons.items()} == {
        'broken.png': reasons[str(tmp_path / 'in/broken.png')],
        'draw.png': 'not drawn: no font',
        'model.png': 'no such kernel',
        'pipeline.png': "KeyError: 'too odd'",
    }


def test_a_map_that_cannot_be_written_costs_one_image(segmentor, tmp_path, capsys):
    for name in 'ab':
        write_picture(tmp_path / f'in/{name}.png')
    (tmp_path / 'out/maps/a.png').mkdir(parents=True)
    assert predict(*segmentor, tmp_path / 'in', out=tmp_path / 'out') == 1
    assert Image.open(tmp_path / 'out/maps/b.png').size == (48, 40)
    err = capsys.readouterr().err.splitlines()
    assert err[1].startswith(f'{tmp_path}/in/a.png: ') and 'Is a directory' in err[1]
    assert err[2:] == ['1 of 2 images failed']
    assert not list((tmp_path / 'out').rglob('*.part'))


@pytest.mark.parametrize('task', ['classifier', 'segmentor', 'detector'])
def test_images_of_odd_shapes(task, tmp_path, capsys, request):
    model = request.getfixturevalue(task)
    for size in ((1, 1), (1, 300), (3000, 2), (31, 33)):
        write_picture(tmp_path / 'in' / f'{size[0]}x{size[1]}.png', size)
    arguments = [*model, tmp_path / 'in', '--score-thr', 0]
    assert predict(*arguments, out=tmp_path / 'out') == 0, capsys.readouterr().err
    names = {'1x1', '1x300', '3000x2', '31x33'}
    assert {path.stem for path in (tmp_path / 'out/vis').iterdir()} == names
    if task == 'segmentor':
        for path in (tmp_path / 'out/maps').iterdir():
            assert '{}x{}'.format(*Image.open(path).size) == path.stem


def test_scores_that_are_no_numbers_are_said(tmp_path, capsys):
    def spoil(model: torch.nn.Module) -> None:
        model.head.fc.weight.data.fill_(3e38)

    model = write_model(tmp_path, 'classification', 3, change=spoil)
    image = write_picture(tmp_path / 'a.png')
    assert predict(*model, image, out=tmp_path / 'out') == 1
    rows = rows_of(tmp_path / 'out/top5.csv')
    assert [row['score'] for row in rows] == ['nan'] * 3
    assert capsys.readouterr().err.splitlines() == [
        f'{image}: NaN or infinite among the scores',
        '1 of 1 images failed',
    ]


def test_detections_that_are_no_numbers_are_left_out(
    detector, tmp_path, capsys, monkeypatch
):
    forward = Predictor.forward

    def spoil(self: Predictor, batch: dict) -> list:
        samples = forward(self, batch)
        found = samples[0].pred_instances
        found.scores[0] = float('nan')
        found.bboxes[1, 2] = float('inf')
        found.labels[2] = -1
        return samples

    monkeypatch.setattr(Predictor, 'forward', spoil)
    image = write_picture(tmp_path / 'a.png')
    assert predict(*detector, image, '--no-vis', out=tmp_path / 'out') == 1
    found = strictly(tmp_path / 'out/detections.json')
    assert len(found) == 5
    assert {result['image_id'] for result in found} == {1}
    assert capsys.readouterr().err.splitlines() == [
        f'{image}: 3 of 8 detections omitted (NaN or infinite in box or score, no '
        'class -1)',
        '1 of 1 images failed',
    ]


def test_an_image_without_detections(detector, tmp_path, capsys):
    image = write_picture(tmp_path / 'a.png')
    options = ['--cfg-options', 'model.test_cfg.score_thr=1.0']
    assert predict(*detector, image, *options, out=tmp_path / 'out') == 0
    assert strictly(tmp_path / 'out/detections.json') == []
    images = strictly(tmp_path / 'out/images.json')['images']
    assert images == [dict(id=1, file_name='a.png', width=48, height=40)]
    assert (tmp_path / 'out/vis/a.jpg').is_file()


# -- ids --------------------------------------------------------------------------


def test_inputs_of_one_name_have_ids_of_their_own(tmp_path, capsys):
    model = write_model(tmp_path, 'detection', 1, dict(classes=('a',)))
    for name in 'xy':
        write_picture(tmp_path / f'in/{name}/1.png')
    categories = [dict(id=4, name='a')]

    def ids_with(*names: str) -> int:
        images = [dict(id=i, file_name=name) for i, name in enumerate(names, 8)]
        content = json.dumps(dict(images=images, categories=categories))
        (tmp_path / 'ann.json').write_text(content)
        options = ['--ann-file', tmp_path / 'ann.json', '--no-vis']
        return predict(*model, tmp_path / 'in', *options, out=tmp_path / 'out')

    assert ids_with('in/x/1.png', 'y/1.png') == 0
    images = strictly(tmp_path / 'out/images.json')['images']
    assert {i['file_name']: i['id'] for i in images} == {'x/1.png': 8, 'y/1.png': 9}
    capsys.readouterr()
    assert ids_with('1.png') == 1
    message = capsys.readouterr().err
    assert "has the same id, 8, for 'x/1.png' and 'y/1.png'" in message
    assert message.count('\n') == 1
    assert ids_with('1.png', '1.png') == 1
    assert "images has '1.png' 2 times" in capsys.readouterr().err
    categories[0]['id'] = [4]
    assert ids_with('in/x/1.png', 'y/1.png') == 1
    message = capsys.readouterr().err
    assert 'categories has the id [4]; expected an integer' in message


# -- runs that end early ----------------------------------------------------------


def interrupt_at(name: str, monkeypatch) -> None:
    draw = Predictor.draw

    def interrupted(self: Predictor, image: np.ndarray, *rest: object) -> object:
        if image.shape[1] == 41:
            raise KeyboardInterrupt
        return draw(self, image, *rest)

    monkeypatch.setattr(Predictor, 'draw', interrupted)


def test_an_interruption_loses_nothing(
    detector, segmentor, classifier, tmp_path, capsys, monkeypatch
):
    for i in range(3):
        write_picture(tmp_path / f'in/{i}.png', (40 + i, 40))
    interrupt_at('1', monkeypatch)
    for model in (detector, segmentor, classifier):
        assert predict(*model, tmp_path / 'in', out=tmp_path / 'out') == 130
        *_, kept, end = capsys.readouterr().err.splitlines()
        assert end == 'mmmeta predict: interrupted'
        assert f'{tmp_path / "out"}/' in kept and ' of 2 images' in kept
    categories, *images = lines_of(tmp_path / 'out/detections.jsonl.part')
    assert len(categories['categories']) == 3
    assert [image['file_name'] for image in images] == ['0.png', '1.png']
    assert all(len(image['detections']) == 8 for image in images)
    assert not (tmp_path / 'out/detections.json').exists()
    assert sorted(os.listdir(tmp_path / 'out/maps')) == ['0.png', '1.png']
    assert len(rows_of(tmp_path / 'out/classes.csv')) == 7
    _, *images = lines_of(tmp_path / 'out/top5.jsonl.part')
    assert [image['file_name'] for image in images] == ['0.png', '1.png']
    assert not (tmp_path / 'out/top5.csv').exists()


@pytest.mark.slow
def test_a_killed_run_loses_nothing(tmp_path):
    (tmp_path / 'faulty_step.py').write_text(FAULTY)
    code = (
        'import sys; sys.path.insert(0, sys.argv[1])\n'
        'from mmmeta.cli import main; sys.exit(main(sys.argv[2:]))'
    )
    sys.path.insert(0, str(tmp_path))
    try:
        model = write_model(tmp_path, 'detection', 2, extra=WITH_FAULTY)
    finally:
        sys.path.remove(str(tmp_path))
    for i in range(3):
        write_picture(tmp_path / f'in/{i}.png', seed=i)
    image = np.array(Image.open(tmp_path / 'in/2.png'))
    image[0, 0, 2] = 2
    Image.fromarray(image).save(tmp_path / 'in/2.png')
    arguments = ['predict', *model, str(tmp_path / 'in'), '--out-dir', 'out']
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path), *arguments],
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    _, *images = lines_of(tmp_path / 'out/detections.jsonl.part')
    assert [image['file_name'] for image in images] == ['0.png', '1.png']
    assert not (tmp_path / 'out/detections.json').exists()


def test_a_full_disk_ends_with_one_line(
    classifier, segmentor, tmp_path, capsys, monkeypatch
):
    for i in range(3):
        write_picture(tmp_path / f'in/{i}.png')
    out = tmp_path / 'out'
    out.mkdir()
    part = out / 'top5.jsonl.part'
    part.symlink_to('/dev/full')
    assert predict(*classifier, tmp_path / 'in', out=out) == 1
    err = capsys.readouterr().err
    assert err == f'mmmeta predict: {part}: No space left on device\n'

    replace = os.replace

    def full(source: object, target: object) -> None:
        if str(target).endswith('maps/1.png'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', full)
    assert predict(*segmentor, tmp_path / 'in', out=out) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        f'mmmeta predict: {out}/maps/1.png: No space left on device; {out}/maps has '
        'the maps of 1 images'
    ]
    assert os.listdir(out / 'maps') == ['0.png']


def test_half_a_line_is_taken_back(tmp_path):
    from mmmeta.commands.files import DiskError, Lines

    class Disk(io.BytesIO):
        def write(self, data: bytes) -> int:
            if self.tell() + len(data) > 10:
                super().write(data[: 10 - self.tell()])
                raise OSError(errno.ENOSPC, 'No space left on device')
            return super().write(data)

    lines = Lines(tmp_path / 'lines')
    lines._file = disk = Disk()
    lines.write('12345\n')
    with pytest.raises(DiskError, match='lines: No space left on device'):
        lines.write('67890\n')
    assert disk.getvalue() == b'12345\n'


def test_results_of_before_stay_until_there_are_new_ones(
    detector, tmp_path, capsys, monkeypatch
):
    image = write_picture(tmp_path / 'in/1.png', (41, 40))
    assert predict(*detector, image, out=tmp_path / 'out') == 0
    before = (tmp_path / 'out/detections.json').read_bytes()
    interrupt_at('1', monkeypatch)
    assert predict(*detector, image, out=tmp_path / 'out') == 130
    assert (tmp_path / 'out/detections.json').read_bytes() == before
