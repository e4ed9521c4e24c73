"""Correct data sets with boxes and masks, as tools and publishers write them."""

import base64
import json

import numpy as np
import pytest
from data_sets import making
from data_sets.making import BOXES, NAMES, OUTLINE, image, text
from PIL import Image
from pycocotools import mask as coco_mask

from mmmeta.data import read_data
from mmmeta.data.masks import compressed, decode

BOX = [box for _, box in BOXES]


def read(root, kinds=()):
    """Read a data set whose problems are of some kinds."""
    data = read_data(root)
    assert [problem.kind for problem in data.problems] == list(kinds), data.problems
    return data


def boxes(data):
    return [[thing.box for thing in item.objects] for item in data.items]


# -- COCO ---------------------------------------------------------------------


def test_ids_with_gaps_and_from_zero(tmp_path):
    root = making.coco(tmp_path)
    for split in ('train', 'val'):
        file = root / f'annotations/instances_{split}.json'
        content = json.loads(file.read_text())
        content['categories'] = [dict(id=90, name='cat'), dict(id=0, name='dog')]
        for row in content['annotations']:
            row['category_id'] = {1: 90, 2: 0}[row['category_id']]
        file.write_text(json.dumps(content))
    data = read(root)
    assert data.classes == ['cat', 'dog']
    assert data.category_ids == [90, 0]
    assert [thing.label for thing in data.items[0].objects] == [0, 1]
    assert boxes(data) == [BOX] * 4
    split = data.splits['val']
    assert split.annotations == root / 'annotations/instances_val.json'
    assert split.images == root / 'val'
    assert [item.name for item in split.items] == ['0.jpg', '1.jpg']


def test_roboflows_folders_and_its_group(tmp_path):
    categories = [dict(id=0, name='pets', supercategory='none')]
    for number, name in enumerate(NAMES, 1):
        categories.append(dict(id=number, name=name, supercategory='pets'))
    for split in ('train', 'valid', 'test'):
        name = image(tmp_path / split / 'a.rf.0.jpg').name
        file = tmp_path / split / '_annotations.coco.json'
        making.coco_file(file, [name], categories=categories)
    data = read(tmp_path)
    assert list(data.splits) == ['train', 'val', 'test']
    assert data.splits['val'].source == 'valid'
    assert data.splits['val'].images == tmp_path / 'valid'
    assert data.classes == ['cat', 'dog']
    assert data.category_ids == [1, 2]
    assert [thing.label for thing in data.items[0].objects] == [0, 1]
    assert data.lost == [
        "category 'pets' (id 0) is left out: it is the group of the others and has no "
        'objects'
    ]


@pytest.mark.parametrize(
    ('file', 'names', 'images'),
    [
        ('annotations/instances_default.json', 'x.jpg', 'images'),  # CVAT
        ('result.json', 'images/x.jpg', ''),  # Label Studio
        ('train.json', 'x.jpg', ''),
        ('annotations/train.json', './train/x.jpg', 'images'),
        ('annotations/x_train2017.json', 'ä ö/日本.JPEG', 'train2017'),
    ],
)
def test_where_the_images_are(tmp_path, file, names, images):
    image(tmp_path / images / names, format='jpeg')
    making.coco_file(tmp_path / file, [names])
    data = read(tmp_path)
    assert list(data.splits) == ['train']
    assert data.splits['train'].images == tmp_path / images
    (item,) = data.items
    assert item.path.is_file()
    assert item.path == data.splits['train'].images / item.name
    assert read(tmp_path / file).items[0].objects == item.objects


def test_coco_has_other_files_too(tmp_path):
    root = making.coco(tmp_path)
    for name in ('captions_train2017', 'person_keypoints_val2017'):
        making.coco_file(root / f'annotations/{name}.json', ['0.jpg'], categories=[])
    assert len(read(root).items) == 4
    # A file alone is one split.
    file = root / 'annotations/instances_val.json'
    assert list(read(file).splits) == ['val']


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-be', 'latin-1'])
def test_encodings(tmp_path, encoding):
    """MMDetection reads only UTF-8."""
    root = making.coco(tmp_path)
    for file in root.glob('annotations/*'):
        content = file.read_text().replace('"cat"', '"kätzchen"')
        file.write_bytes(content.encode(encoding))
    data = read(root, ['encoding'])
    assert data.problems[0].severity == 'error'
    assert data.problems[0].count == 2
    assert data.classes == ['kätzchen', 'dog']
    assert boxes(data) == [BOX] * 4


def test_masks_and_crowds(tmp_path):
    image(tmp_path / '0.jpg')
    mask = np.zeros((30, 40), bool)
    mask[6:16, 4:24] = True
    counts = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)))
    counts = [4 * 30 + 6, *counts.tolist(), 16 * 30 + 14]
    packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    masks = [
        [OUTLINE],
        dict(size=[30, 40], counts=counts),
        dict(size=[30, 40], counts=packed['counts'].decode()),
    ]
    rows = [
        dict(
            id=i, image_id=1, category_id=1, bbox=[4 + i / 9, 6, 20, 10], iscrowd=i % 2
        )
        | dict(segmentation=segmentation, score=0.5)
        for i, segmentation in enumerate(masks)
    ]
    making.coco_file(tmp_path / 'train.json', ['0.jpg'], annotations=rows)
    data = read(tmp_path, ['class-empty'])
    assert data.task == 'instances'
    for thing in data.items[0].objects:
        np.testing.assert_array_equal(decode(thing, 30, 40), mask)
        assert coco_mask.area(compressed(thing, 30, 40)) == 200
        assert thing.extra['score'] == 0.5
    assert [thing.crowd for thing in data.items[0].objects] == [False, True, False]


# -- YOLO ---------------------------------------------------------------------


@pytest.mark.parametrize(
    'config',
    [
        'train: images/train\nval: images/val\nnames: [cat, dog]',
        'path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames:\n'
        '  0: cat\n  1: dog',
        'train: ../images/train\nval: ../images/val\ntest: ../images/test\nnc: 2\n'
        "names: ['cat', 'dog']",
        'train: [images/train]\nval: [./images/val/]\nnames: {1: dog, 0: cat}',
        'train: train.txt\nval: val.txt\nnames: [cat, dog]',
    ],
    ids=['plain', 'moved', 'roboflow', 'lists', 'files'],
)
def test_data_yaml(tmp_path, config):
    root = making.yolo(tmp_path)
    text(root / 'data.yaml', config)
    for split in ('train', 'val'):
        names = [f'./images/{split}/{n}.jpg\n' for n in range(2)]
        text(root / f'{split}.txt', ''.join(names))
    missing = ['file-missing'] if 'test' in config else []
    data = read(root, missing)
    assert {p.severity for p in data.problems} <= {'warning'}
    assert data.classes == ['cat', 'dog']
    assert [len(split.items) for split in data.splits.values()] == [2, 2]
    assert boxes(data) == [BOX] * 4
    assert read(root / 'data.yaml', missing).items == data.items


def test_names_are_text(tmp_path):
    """For YAML, `no` is a truth value."""
    root = making.yolo(tmp_path)
    text(root / 'data.yaml', 'train: images/train\nval: images/val\ntest:\nnc: 2\n'
         'path: null\nnames: [no, 1]')  # fmt: skip
    data = read(root)
    assert data.classes == ['no', '1']
    assert list(data.splits) == ['train', 'val']


def test_without_data_yaml(tmp_path):
    for number in range(3):
        image(tmp_path / f'obj_train_data/{number}.JPG', format='jpeg')
        text(tmp_path / f'obj_train_data/{number}.txt', '1 0.5 0.5 0.5 0.5\r\n')
    text(tmp_path / 'classes.txt', 'cat\ndog\n')
    data = read(tmp_path, ['class-empty'])
    assert data.format == 'yolo'
    assert data.classes == ['cat', 'dog']
    assert boxes(data) == [[(10, 7.5, 20, 15)]] * 3


def test_background_images(tmp_path):
    root = making.yolo(tmp_path)
    image(root / 'images/train/x.jpg')
    text(root / 'labels/train/1.txt', '')
    data = read(root)
    assert [len(item.objects) for item in data.splits['train'].items] == [2, 0, 0]


def test_polygons(tmp_path):
    root = making.yolo(tmp_path)
    values = [v / (40, 30)[i % 2] for i, v in enumerate(OUTLINE)]
    lines = f'0 {" ".join(map(str, values))}\n1 0 0 1 0 1 1 0 1'
    for file in root.glob('labels/*/*.txt'):
        file.write_text(lines)
    data = read(root)
    assert data.task == 'instances'
    for item in data.items:
        for thing, (x, y, w, h) in zip(item.objects, BOX, strict=True):
            np.testing.assert_allclose(thing.box, (x, y, w, h))
            mask = np.zeros((30, 40), bool)
            mask[y : y + h, x : x + w] = True
            np.testing.assert_array_equal(decode(thing, 30, 40), mask)


def test_keypoints_are_reported(tmp_path):
    root = making.yolo(tmp_path)
    with (root / 'data.yaml').open('a') as file:
        file.write('kpt_shape: [1, 3]\n')
    text(root / 'labels/train/0.txt', '0 .5 .5 .2 .2 .5 .5 2\n1 .5 .5 .2 .2 .5 .5 2')
    data = read(root)
    assert data.task == 'detection'
    assert data.lost == ['keypoints of 2 objects are not read']


# -- Pascal VOC ---------------------------------------------------------------


def test_the_first_pixel_is_1(tmp_path):
    """(1, 1, 40, 30) is the whole image, as for Detectron2."""
    data = read(making.voc(tmp_path))
    assert '<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax>' in making.xml()
    assert boxes(data) == [BOX] * 4
    assert data.splits['train'].images == tmp_path / 'JPEGImages'
    assert data.splits['train'].annotations == tmp_path / 'Annotations'
    assert {item.stated for item in data.items} == {(40, 30)}


def test_the_first_pixel_is_0(tmp_path):
    root = making.voc(tmp_path)
    for file in root.glob('Annotations/*'):
        file.write_text(making.xml(first=0))
    data = read(root, ['origin'])
    assert data.problems[0].severity == 'warning'
    assert boxes(data) == [BOX] * 4


def test_flags_of_objects(tmp_path):
    root = making.voc(tmp_path)
    more = '<pose>Left</pose><truncated>1</truncated><difficult>1</difficult>'
    more += '<part><name>head</name></part>'
    text(root / 'Annotations/train0.xml', making.xml(more=more))
    data = read(root)
    extra = dict(truncated=1, difficult=1, pose='Left')
    assert [thing.extra for thing in data.items[0].objects] == [extra] * 2
    assert data.lost == ['parts of 2 objects are not read']


def test_without_image_sets(tmp_path):
    """As LabelImg and Roboflow write them: beside the images, in folders or not."""
    for split in ('train', 'valid'):
        image(tmp_path / 'a' / split / 'ä.png')
        text(tmp_path / 'a' / split / 'ä.xml', making.xml().encode('latin-1'))
    data = read(tmp_path / 'a')
    assert {n: len(s.items) for n, s in data.splits.items()} == {'train': 1, 'val': 1}
    image(tmp_path / 'b/images/1.bmp')
    text(tmp_path / 'b/annotations/1.xml', making.xml())
    assert list(read(tmp_path / 'b').splits) == ['train']


def test_years_and_trainval(tmp_path):
    for year in ('VOC2007', 'VOC2012'):
        image(tmp_path / year / 'JPEGImages/1.jpg')
        text(tmp_path / year / 'Annotations/1.xml', making.xml())
        for name in ('trainval', 'cat_trainval'):
            text(tmp_path / year / f'ImageSets/Main/{name}.txt', '1  1')
    data = read(tmp_path)
    assert {n: len(s.items) for n, s in data.splits.items()} == {'train': 2}
    for item in data.items:
        assert data.splits['train'].images / item.name == item.path


# -- LabelMe ------------------------------------------------------------------


def test_shapes(tmp_path):
    image(tmp_path / '0.jpg')
    part = np.zeros((5, 4), np.uint8)
    part[1:4, 1:3] = 1
    Image.fromarray(part * 255).save(tmp_path / 'part.png')
    picture = base64.b64encode((tmp_path / 'part.png').read_bytes()).decode()
    (tmp_path / 'part.png').unlink()
    points = np.reshape(OUTLINE, (-1, 2)).tolist()
    making.labelme_file(
        tmp_path / '0.json',
        [
            making.shape('cat', 'polygon', points),
            making.shape('dog', 'circle', [[20, 15], [23, 19]]),
            making.shape('cat', 'polygon', [[1, 1], [3, 1], [3, 3]], group_id=1),
            making.shape('cat', 'polygon', [[6, 1], [9, 1], [9, 3]], group_id=1),
            making.shape('dog', 'mask', [[10, 20], [13, 24]], mask=picture),
            making.shape('dog', 'point', [[10, 20]]),
            making.shape('dog', 'linestrip', [[10, 20], [1, 2], [5, 6]]),
        ],
    )
    data = read(tmp_path)
    assert (data.format, data.task) == ('labelme', 'instances')
    polygon, circle, group, mask = data.items[0].objects
    assert polygon.polygons == [OUTLINE]
    assert polygon.box == (4, 6, 20, 10)
    np.testing.assert_allclose(circle.box, (15, 10, 10, 10))
    area = coco_mask.area(compressed(circle, 30, 40))
    assert abs(area - np.pi * 25) < 4
    assert group.box == (1, 1, 8, 2) and len(group.polygons) == 2
    expected = np.zeros((30, 40), bool)
    expected[21:24, 11:13] = True
    np.testing.assert_array_equal(decode(mask, 30, 40), expected)
    assert mask.box == (11, 21, 2, 3)
    assert data.lost == [
        '1 shapes of type point are not read',
        '1 shapes of type linestrip are not read',
    ]


def test_an_image_inside_of_its_file(tmp_path):
    root = making.labelme(tmp_path)
    content = json.loads((root / '0.json').read_text())
    content['imageData'] = base64.b64encode((root / '0.jpg').read_bytes()).decode()
    (root / '0.json').write_text(json.dumps(content))
    (root / '0.jpg').unlink()
    data = read(root, ['image-embedded'])
    assert data.items[0].embedded
    assert (data.items[0].width, data.items[0].height) == (40, 30)


def test_labels_txt_orders_the_classes(tmp_path):
    root = making.labelme(tmp_path)
    text(root / 'labels.txt', '__ignore__\n_background_\ndog\ncat\n')
    data = read(root)
    assert data.classes == ['dog', 'cat']
    assert [thing.label for thing in data.items[0].objects] == [1, 0]
