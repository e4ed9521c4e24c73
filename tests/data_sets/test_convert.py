"""Conversions lose nothing that the new format can have, and say what they lose."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_sets import making
from data_sets.making import image, some_values, text
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmmeta.cli import main
from mmmeta.data import read_data
from mmmeta.data.convert import write_coco, write_png
from mmmeta.data.maps import read_map
from mmmeta.data.masks import decode
from mmmeta.errors import UserError


def same(a, b):
    """Whether two data sets have the same images, classes and objects."""
    assert a.classes == b.classes
    assert list(a.splits) == list(b.splits)
    for split, part in a.splits.items():
        others = b.splits[split].items
        for one, other in zip(part.items, others, strict=True):
            assert one.path.read_bytes() == other.path.read_bytes()
            for x, y in zip(one.objects, other.objects, strict=True):
                assert (x.label, x.crowd, x.box) == (y.label, y.crowd, y.box)
                assert (x.polygons, x.rle) == (y.polygons, y.rle)
                assert x.extra.items() <= y.extra.items()
    return True


@pytest.mark.parametrize('name', ['coco', 'yolo', 'voc', 'labelme'])
def test_boxes_as_coco(tmp_path, name):
    data = read_data(making.ALL[name](tmp_path / 'old'))
    assert write_coco(data, tmp_path / 'new') == []
    new = read_data(tmp_path / 'new')
    assert new.format == 'coco' and new.problems == []
    assert same(data, new)
    assert not [path for path in tmp_path.iterdir() if path.name not in ('old', 'new')]


def test_coco_keeps_ids_and_keys(tmp_path):
    root = making.coco(tmp_path / 'old')
    file = root / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    mask = np.zeros((30, 40), np.uint8, order='F')
    mask[3:9, 5:20] = 1
    rle = coco_mask.encode(mask)
    for row in content['annotations']:
        row['segmentation'] = [[0, 0, 9, 0, 9, 9]]
        row['attributes'] = dict(color='red')
        row['id'] += 100
    crowd = dict(
        id=7, image_id=1, category_id=2, bbox=[5, 3, 15, 6], iscrowd=1, area=90
    )
    crowd['segmentation'] = dict(size=[30, 40], counts=rle['counts'].decode())
    other = dict(crowd, id=8, iscrowd=1, category_id=1)
    other['segmentation'] = dict(size=[30, 40], counts=[153, 6, 1041])
    content['annotations'] += [crowd, other]
    content['images'][0].update(license=3, coco_url='http://x')
    content['categories'][0]['supercategory'] = 'animal'
    content.update(info=dict(year=2020), licenses=[dict(id=3, name='CC0')])
    file.write_text(json.dumps(content))
    write_coco(read_data(root), tmp_path / 'new')
    new = json.loads((tmp_path / 'new/annotations/instances_train.json').read_text())
    for key in ('images', 'categories', 'info', 'licenses'):
        assert new[key] == content[key]
    rows = sorted(new['annotations'], key=lambda row: row['id'])
    assert rows == sorted(content['annotations'], key=lambda row: row['id'])


def test_areas_are_those_of_pycocotools(tmp_path):
    root = making.labelme(tmp_path / 'old')
    points = [[4, 6], [24, 6], [14, 20]]
    shapes = [making.shape('cat', 'polygon', points)]
    for number in range(2):
        making.labelme_file(root / f'{number}.json', shapes)
    write_coco(read_data(root), tmp_path / 'new')
    coco = COCO(tmp_path / 'new/annotations/instances_train.json')
    for row in coco.anns.values():
        assert (
            row['area']
            == coco.annToMask(row).sum()
            == coco_mask.area(coco.annToRLE(row))
        )
    assert len(coco.anns) == 2


def test_flags_of_voc_are_kept(tmp_path):
    root = making.voc(tmp_path / 'old')
    text(root / 'Annotations/train0.xml', making.xml(more='<difficult>1</difficult>'))
    write_coco(read_data(root), tmp_path / 'new')
    content = (tmp_path / 'new/annotations/instances_train.json').read_text()
    assert [row.get('difficult') for row in json.loads(content)['annotations']] == [
        *(1, 1, None, None)
    ]


def test_an_embedded_image_gets_a_file(tmp_path):
    import base64

    root = making.labelme(tmp_path / 'old')
    picture = (root / '0.jpg').read_bytes()
    content = json.loads((root / '0.json').read_text())
    content['imageData'] = base64.b64encode(picture).decode()
    (root / '0.json').write_text(json.dumps(content))
    (root / '0.jpg').unlink()
    write_coco(read_data(root), tmp_path / 'new')
    assert (tmp_path / 'new/train/0.jpg').read_bytes() == picture
    assert read_data(tmp_path / 'new').problems == []


def test_missing_images_and_shapes_are_said(tmp_path):
    root = making.coco(tmp_path / 'old')
    (root / 'train/0.jpg').unlink()
    lost = write_coco(read_data(root), tmp_path / 'new')
    assert lost == ['1 images cannot be read and were left out']
    assert read_data(tmp_path / 'new').problems == []
    root = making.labelme(tmp_path / 'shapes')
    making.labelme_file(root / '0.json', [making.shape('cat', 'point', [[1, 2]])])
    lost = write_coco(read_data(root), tmp_path / 'other')
    assert lost == ['1 shapes of type point are not read']


def test_faults_are_not_hidden(tmp_path):
    """A wrong size stays wrong, and no maps are made of it."""
    root = making.coco(tmp_path / 'old')
    file = root / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    content['images'][0].update(width=80, height=60)
    for row in content['annotations']:
        row['segmentation'] = [[0, 0, 9, 0, 9, 9]]
    file.write_text(json.dumps(content))
    (root / 'annotations/instances_val.json').unlink()
    data = read_data(root)
    assert [problem.kind for problem in data.problems] == ['size-differs']
    write_coco(data, tmp_path / 'new')
    assert [p.kind for p in read_data(tmp_path / 'new').problems] == ['size-differs']
    with pytest.raises(UserError, match=r'not converted: train/0\.jpg: image'):
        write_png(data, tmp_path / 'png')


def test_faulty_objects_are_said(tmp_path):
    root = making.yolo(tmp_path / 'old')
    text(root / 'labels/train/0.txt', '0 .5 .5 .1 .1\n7 .5 .5 .1 .1')
    (lost,) = write_coco(read_data(root), tmp_path / 'new')
    assert lost.startswith('left out: labels/train/0.txt line 2: label out of range')
    assert len(read_data(tmp_path / 'new').items[0].objects) == 1


def test_maps_as_coco_and_back(tmp_path):
    values = some_values(0, 1, 2)
    values[5:9, 3:30] = 2
    root = making.png(tmp_path / 'old', values)
    text(root / 'classes.txt', 'background\ncat\ndog')
    data = read_data(root)
    lost = write_coco(data, tmp_path / 'coco')
    assert lost == ["class 'background' is where no other class is"]
    coco = read_data(tmp_path / 'coco')
    assert (coco.task, coco.classes) == ('instances', ['cat', 'dog'])
    for item in coco.items:
        for thing in item.objects:
            mask = values == thing.label + 1
            np.testing.assert_array_equal(decode(thing, 30, 40), mask)
            assert thing.extra['area'] == mask.sum()
    write_png(coco, tmp_path / 'png')
    back = read_data(tmp_path / 'png')
    assert back.problems == []
    assert back.classes == data.classes
    for item in back.items:
        np.testing.assert_array_equal(read_map(item.map, back.maps), values)


@pytest.mark.parametrize(
    ('pixels', 'expected', 'names'),
    [
        (some_values(0, 255), some_values(0, 1), ['background', 'foreground']),
        (some_values(0, 50, 100), some_values(0, 1, 2), ['0', '50', '100']),
        (
            np.array([[9, 0, 0], [0, 0, 0]], np.uint8)[some_values(0, 1)],
            some_values(1, 0),
            ['background', 'color_090000'],
        ),
        (some_values(0, 1, 255), some_values(0, 1, 255), ['0', '1']),
    ],
)
def test_maps_as_indices(tmp_path, pixels, expected, names):
    data = read_data(making.png(tmp_path / 'old', pixels))
    assert write_png(data, tmp_path / 'new') == []
    for file in (tmp_path / 'new/annotations').glob('*/*.png'):
        with Image.open(file) as picture:
            assert picture.mode == 'P'
            np.testing.assert_array_equal(np.asarray(picture), expected)
    new = read_data(tmp_path / 'new')
    assert new.problems == [] and new.maps.direct and new.classes == names
    assert new.maps.colors == data.maps.colors


def test_instances_as_maps(tmp_path):
    """Small objects are in front of large ones, as far as maps can say."""
    root = making.coco(tmp_path / 'old')
    for split in ('train', 'val'):
        file = root / f'annotations/instances_{split}.json'
        content = json.loads(file.read_text())
        for row in content['annotations']:
            x, y, w, h = row['bbox']
            row['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        file.write_text(json.dumps(content))
    lost = write_png(read_data(root), tmp_path / 'new')
    assert lost == [
        'maps do not tell the objects of a class apart',
        '4 images have objects that cover others',
    ]
    new = read_data(tmp_path / 'new')
    assert new.classes == ['background', 'cat', 'dog']
    expected = np.full((30, 40), 2)
    expected[6:16, 4:24] = 1
    np.testing.assert_array_equal(read_map(new.items[0].map, new.maps), expected)


def test_names_that_would_collide(tmp_path):
    for name in ('a/x.jpg', 'b/x.jpg', 'b/x.png'):
        image(tmp_path / 'old' / name)
    names = ['C:\\a\\x.jpg', '/b/x.jpg', 'b/x.png']
    making.coco_file(tmp_path / 'old/train.json', names)
    data = read_data(tmp_path / 'old')
    write_coco(data, tmp_path / 'new')
    new = read_data(tmp_path / 'new')
    found = {item.path.read_bytes() for item in new.items}
    assert len(found) == len([i for i in data.items if i.path.is_file()])


def test_nothing_is_overwritten(tmp_path):
    data = read_data(making.coco(tmp_path / 'old'))
    text(tmp_path / 'new/mine.txt', 'x')
    with pytest.raises(UserError, match='expected an empty folder'):
        write_coco(data, tmp_path / 'new')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['mine.txt']
    (tmp_path / 'empty').mkdir()
    write_coco(data, tmp_path / 'empty')
    assert (tmp_path / 'empty/train/0.jpg').samefile(tmp_path / 'old/train/0.jpg')


def test_an_error_leaves_nothing(tmp_path):
    root = making.png(tmp_path / 'old')
    content = (root / 'annotations/val/1.png').read_bytes()
    (root / 'annotations/val/1.png').write_bytes(content[:60])
    with pytest.raises(
        UserError, match=r'not converted: annotations/val/1\.png: map that'
    ):
        write_png(read_data(root), tmp_path / 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['old']


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    root = making.png(tmp_path / 'old')

    def write_text(self: Path, *args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_text', write_text)
    out = tmp_path / 'new'
    assert main(['data', str(root), '--json', '--to', 'coco', '-o', str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f'mmmeta data: {out}: No space left on device'
    assert [path.name for path in tmp_path.iterdir()] == ['old']


@pytest.mark.parametrize(
    ('name', 'write', 'words'),
    [
        ('folders', write_coco, 'class folders have no boxes'),
        ('folders', write_png, 'maps need a mask for each object'),
        ('yolo', write_png, 'maps need a mask for each object'),
    ],
)
def test_what_cannot_be_converted(tmp_path, name, write, words):
    data = read_data(making.ALL[name](tmp_path / 'old'))
    with pytest.raises(UserError, match=words):
        write(data, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()
