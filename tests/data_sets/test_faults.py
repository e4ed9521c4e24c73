"""Each broken data set gives one clear problem."""

import json
import re

import numpy as np
import pytest
from data_sets import making
from data_sets.making import SIZE, image, some_values, text
from PIL import Image

from mmmeta.data import read_data
from mmmeta.data.faults import KINDS
from mmmeta.data.picture import picture
from mmmeta.errors import UserError

TRAIN = 'annotations/instances_train.json'
WHOLE = 40 * 30


def change(root, edit, file=TRAIN):
    """Change the content of a JSON file."""
    content = json.loads((root / file).read_text())
    edit(content)
    (root / file).write_text(json.dumps(content))


def change_first(**values):
    """Change the first annotation of COCO."""
    return lambda root: change(root, lambda c: c['annotations'][0].update(values))


def change_all(**values):
    """Change all annotations of COCO, so that all have a mask."""

    def edit(content):
        for row in content['annotations']:
            row.update(segmentation=[[0, 0, 9, 0, 9, 9]])
        content['annotations'][0].update(values)

    def apply(root):
        change(root, edit)
        change(root, edit, TRAIN.replace('train', 'val'))
        # Of the two files, only the first is wrong.
        mend = dict(segmentation=[[0, 0, 9, 0, 9, 9]])
        other = TRAIN.replace('train', 'val')
        change(root, lambda c: c['annotations'][0].update(mend), other)

    return apply


def line(content, file='labels/train/0.txt'):
    return lambda root: text(root / file, content)


def edit(file, old, new):
    def apply(root):
        before = (root / file).read_text()
        assert old in before
        (root / file).write_text(before.replace(old, new, 1))

    return apply


def cut(file, share=0.6):
    def apply(root):
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: int(len(content) * share)])

    return apply


def remove(file):
    return lambda root: (root / file).unlink()


def copy(source, target):
    return lambda root: (root / target).write_bytes((root / source).read_bytes())


def remap(*values, **options):
    return lambda root: making.png(root, some_values(*values), **options)


def color_maps(root):
    making.png(root, np.stack([some_values(0, 128)] * 2 + [some_values(0, 64)], -1))


def lossy_maps(root):
    noise = np.random.RandomState(0).randint(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(root / 'annotations/train/0.png')


def turned(root, swap):
    """Store an image on its side, with the EXIF tag that turns it."""
    size = SIZE[::-1] if swap else SIZE
    exif = Image.Exif()
    exif[0x0112] = 6
    image(root / 'train/0.jpg', size, exif=exif)


# Format, what breaks it, the kind of the problem, and what its text says.
BROKEN = [
    # COCO
    ('coco', remove('train/0.jpg'), 'image-missing', f'{TRAIN} image 1: image missing'),
    ('coco', cut('train/0.jpg'), 'image-unreadable', 'train/0.jpg: image that cannot'),
    ('coco', line('', 'train/0.jpg'), 'image-unreadable', 'the file is empty'),
    ('coco', line('abc', 'train/0.jpg'), 'image-unreadable', 'train/0.jpg'),
    ('coco', change_first(bbox=[4, 6, 0, 9]), 'box-empty', 'annotation 1'),
    ('coco', change_first(bbox=[9, 9, -3, 9]), 'box-empty', '-3x9'),
    ('coco', change_first(bbox=[50, 9, 5, 5]), 'box-outside', 'the image is 40x30'),
    ('coco', change_first(bbox=[30, 9, 20, 5]), 'box-over-edge', 'annotation 1'),
    ('coco', change_first(bbox=[1, 2, 3]), 'box-missing', 'bbox [1, 2, 3]'),
    ('coco', change_first(bbox=None), 'box-missing', 'annotation 1'),
    ('coco', change_first(category_id=7), 'label-range', 'no category has the id 7'),
    ('coco', change_first(image_id=9), 'id-missing', 'no image has the id 9'),
    ('coco', change_first(image_id='1'), 'id-missing', "no image has the id '1'"),
    ('coco', change_first(id=2), 'id-twice', 'annotation 2'),
    (
        'coco',
        lambda root: change(root, lambda c: c['annotations'][0].pop('id')),
        'id-missing',
        'annotation number 1',
    ),
    (
        'coco',
        lambda root: change(root, lambda c: c['images'][1].update(id=1)),
        'id-twice',
        'image 1',
    ),
    (
        'coco',
        lambda root: change(root, lambda c: c['images'][0].update(width=80)),
        'size-differs',
        '40x30, annotated as 80x30',
    ),
    (
        'coco',
        lambda root: change(
            root, lambda c: c['annotations'].append(dict(c['annotations'][0], id=99))
        ),
        'object-twice',
        'annotation 99',
    ),
    (
        'coco',
        lambda root: change(root, lambda c: c['categories'].reverse()),
        'class-count',
        'instances_val.json categories',
    ),
    (
        'coco',
        lambda root: change(
            root, lambda c: c['images'].append(dict(c['images'][0], id=9))
        ),
        'image-twice',
        'image 9',
    ),
    ('coco', change_all(segmentation=[[1, 2, 3, 4]]), 'mask-invalid', '4 numbers'),
    (
        'coco',
        change_all(segmentation=dict(size=[40, 30], counts=[WHOLE])),
        'mask-size',
        '30x40, the image is 40x30',
    ),
    (
        'coco',
        change_all(segmentation=dict(size=[30, 40], counts=[9, 9])),
        'mask-invalid',
        'RLE of 18 pixels, not 1200',
    ),
    (
        'coco',
        change_all(segmentation=dict(size=[30, 40], counts='~~~')),
        'mask-invalid',
        'annotation 1',
    ),
    ('coco', change_all(segmentation=[]), 'mask-missing', '1 of 8 objects'),
    ('coco', cut(TRAIN), 'file-unreadable', TRAIN),
    ('coco', line('\ufeff{}', TRAIN), 'file-unreadable', 'no list "images"'),
    ('coco', copy('train/0.jpg', 'val/1.jpg'), 'split-overlap', 'train/0.jpg in train'),
    ('coco', copy('train/0.jpg', 'train/9.jpg'), 'image-unused', 'train/9.jpg'),
    (
        'coco',
        lambda root: (root / 'train/0.jpg').rename(root / 'train/0.JPG'),
        'image-missing',
        '0.jpg; 0.JPG is there',
    ),
    (
        'coco',
        lambda root: (
            change(root, lambda c: c['images'][0].update(file_name='C:\\a\\only.jpg'))
            or (root / 'train/0.jpg').rename(root / 'train/only.jpg')
        ),
        'image-path',
        'C:/a/only.jpg is train/only.jpg',
    ),
    ('coco', lambda root: turned(root, False), 'size-turned', 'annotated as 40x30'),
    # YOLO
    ('yolo', line('2 .5 .5 .1 .1'), 'label-range', '0.txt line 1'),
    ('yolo', line('-1 .5 .5 .1 .1'), 'label-range', 'expected 0 to 1'),
    ('yolo', line('0.5 .5 .5 .1 .1'), 'label-range', '0.5'),
    ('yolo', line('0 .5 .5 .1 .1\n0 20 15 9 9'), 'coordinate-range', 'line 2: '),
    ('yolo', line('0 .5 .5 .1'), 'line-unreadable', '4 values'),
    ('yolo', line('0 .5 .5 .1 .1 .9'), 'line-unreadable', '6 values'),
    ('yolo', line('cat .5 .5 .1 .1'), 'line-unreadable', 'cat .5'),
    ('yolo', line('0 .5 .5 .1 nan'), 'line-unreadable', 'line 1'),
    ('yolo', line('nan .5 .5 .1 .1'), 'line-unreadable', 'line 1'),
    ('yolo', line('0 .5 .5 0 .1'), 'box-empty', 'labels/train/0.txt line 1'),
    ('yolo', line('0 .1 .5 .5 .1'), 'box-over-edge', 'labels/train/0.txt line 1'),
    ('yolo', line('0 .1 .1 .5 .1 .5 .5\n0 .5 .5 .1 .1'), 'mask-missing', '7 of 8'),
    ('yolo', line('', 'labels/train/7.txt'), 'annotation-alone', 'train/7.txt'),
    ('yolo', cut('images/val/0.jpg'), 'image-unreadable', 'images/val/0.jpg'),
    (
        'yolo',
        edit('data.yaml', 'images/val', 'images/dev'),
        'file-missing',
        'images/dev',
    ),
    ('yolo', edit('data.yaml', 'names', 'nc: 3\nnames'), 'class-count', 'nc is 3'),
    (
        'yolo',
        edit('data.yaml', 'names: ["cat", "dog"]', 'names: {0: cat, 2: dog}'),
        'class-count',
        'no name for 1',
    ),
    ('yolo', edit('data.yaml', '"dog"]', '"dog", "CAT"]'), 'class-twice', "'CAT'"),
    (
        'yolo',
        edit('data.yaml', '["cat", "dog"]', '["cat", "dog", "ox"]'),
        'class-empty',
        "'ox'",
    ),
    (
        'yolo',
        edit('data.yaml', 'names: [', 'names: [['),
        'file-unreadable',
        'data.yaml',
    ),
    ('yolo', copy('images/train/0.jpg', 'images/train/0.png'), 'image-stems', '0.'),
    ('yolo', line('0 .5 .5 .1 .1'.encode('utf-16')), 'encoding', 'it is UTF-16'),
    ('yolo', line(b'\xef\xbb\xbf0 .5 .5 .1 .1'), 'encoding', 'BOM'),
    # Pascal VOC
    (
        'voc',
        line(making.xml(size=(50, 30)), 'Annotations/train0.xml'),
        'size-differs',
        'annotated as 50x30',
    ),
    ('voc', line(making.xml(first=0), 'Annotations/train0.xml'), 'origin', 'object 2'),
    (
        'voc',
        line('<annotation><object>', 'Annotations/train0.xml'),
        'file-unreadable',
        'train0.xml',
    ),
    (
        'voc',
        line(making.xml([(0, (9, 9, 0, 5))]), 'Annotations/val0.xml'),
        'box-empty',
        'val0.xml object 1',
    ),
    (
        'voc',
        edit('Annotations/val0.xml', '<xmin>5', '<xmin>x'),
        'box-missing',
        'no numbers',
    ),
    (
        'voc',
        line('train0\ntrain1\nval0', 'ImageSets/Main/train.txt'),
        'image-twice',
        'val.txt line 1',
    ),
    ('voc', line('val0\nval7', 'ImageSets/Main/val.txt'), 'file-missing', 'line 2'),
    ('voc', line('train0', 'ImageSets/Main/train.txt'), 'file-unused', 'train1.xml'),
    ('voc', remove('JPEGImages/val0.jpg'), 'annotation-alone', 'val0.xml'),
    # LabelMe
    ('labelme', remove('0.jpg'), 'image-missing', "imagePath '0.jpg'"),
    ('labelme', cut('0.json'), 'file-unreadable', '0.json'),
    (
        'labelme',
        lambda root: making.labelme_file(
            root / '0.json', [making.shape('cat', 'polygon', [[1, 2], [3, 4]])]
        ),
        'mask-invalid',
        'shape 1',
    ),
    (
        'labelme',
        lambda root: making.labelme_file(
            root / '0.json', [making.shape('cat', 'rectangle', [[1, 2]])]
        ),
        'box-missing',
        'shape 1',
    ),
    ('labelme', lambda root: image(root / '7.jpg'), 'image-unused', '7.jpg'),
    (
        'labelme',
        lambda root: change(
            root, lambda c: c.update(imagePath='..\\photos\\0.jpg'), '0.json'
        ),
        'image-path',
        '../photos/0.jpg is 0.jpg',
    ),
    # Maps
    ('png', remap(0, 255), 'map-binary', 'background and foreground'),
    ('png', remap(0, 50, 100), 'map-gaps', '0, 50, 100'),
    ('png', color_maps, 'map-colors', '2 colors'),
    ('png', lossy_maps, 'map-lossy', 'annotations/train/0.png'),
    ('png', cut('annotations/train/0.png'), 'map-unreadable', 'train/0.png'),
    ('png', remove('annotations/train/0.png'), 'map-missing', 'images/train/0.jpg'),
    (
        'png',
        remove('images/train/0.jpg'),
        'annotation-alone',
        'annotations/train/0.png',
    ),
    (
        'png',
        lambda root: making.a_map(
            root / 'annotations/val/0.png', some_values(0, 1, 2)[:20]
        ),
        'mask-size',
        '40x20, the image is 40x30',
    ),
    (
        'png',
        lambda root: text(root / 'classes.txt', 'background\ncat'),
        'label-range',
        'value 2, there are 2 classes',
    ),
    # Class folders
    (
        'folders',
        lambda root: (root / 'val/cat').rename(root / 'val/cats'),
        'class-new',
        'val/cats',
    ),
    ('folders', cut('train/cat/0.jpg'), 'image-unreadable', 'train/cat/0.jpg'),
    (
        'folders',
        lambda root: image(root / 'train/0.jpg'),
        'image-unused',
        'train/0.jpg',
    ),
    (
        'folders',
        lambda root: [(root / split / 'ox').mkdir() for split in ('train', 'val')],
        'class-empty',
        "'ox'",
    ),
    ('folders', copy('train/dog/0.jpg', 'val/dog/0.jpg'), 'split-overlap', 'in train'),
]
# Problems that come with another one.
WITH = {
    'class-twice': {'class-empty'},
    'file-missing': {'file-unused'},
    'id-twice': {'id-missing', 'image-unused'},
    'class-new': {'class-count', 'class-empty'},
    'image-unreadable': set(),
    'image-missing': {'image-unused'},
    'file-unreadable': {'encoding', 'class-empty', 'image-unused'},
    'class-count': {'class-empty'},
    'label-range': {'class-empty'},
    'annotation-alone': set(),
    'mask-invalid': {'class-empty'},
    'image-stems': {'split-overlap'},
}


@pytest.mark.parametrize(('name', 'spoil', 'kind', 'words'), BROKEN)
def test_one_clear_problem(tmp_path, name, spoil, kind, words):
    root = making.ALL[name](tmp_path / 'data')
    assert read_data(root).problems == []
    spoil(root)
    problems = read_data(root).problems
    found = {problem.kind: problem for problem in problems}
    assert kind in found, problems
    problem = found[kind]
    assert words in problem.text
    assert '\n' not in problem.text
    assert KINDS[kind].expected in problem.text
    others = {p.kind for p in problems if p.kind != kind}
    assert others <= WITH.get(kind, set()), problems


def test_every_kind_of_fault_is_tested():
    tested = {kind for _, _, kind, _ in BROKEN}
    elsewhere = {'image-huge', 'image-embedded', 'image-turned', 'split-empty'}
    assert set(KINDS) == tested | elsewhere


def test_faults_of_a_kind_are_one_problem(tmp_path):
    root = making.coco(tmp_path)
    rows = [
        dict(bbox=[1, 1, 0, 0], image_id=1, category_id=1, id=9 + i) for i in range(57)
    ]
    for row in rows:
        row['bbox'] = [row['id'], 1, 0, 0]
    change(root, lambda c: c['annotations'].extend(rows))
    (problem,) = read_data(root).problems
    assert (problem.kind, problem.severity, problem.count) == ('box-empty', 'error', 57)
    assert problem.path == TRAIN
    assert problem.text.startswith(
        f'57 boxes without area, first: {TRAIN} annotation 9'
    )


def test_a_picture_that_exif_turns(tmp_path):
    """Annotated as training sees it: correct. Without a size: perhaps."""
    root = making.coco(tmp_path / 'coco')
    turned(root, True)
    data = read_data(root)
    assert data.items[0].width == 40
    assert data.problems == []
    root = making.yolo(tmp_path / 'yolo')
    exif = Image.Exif()
    exif[0x0112] = 8
    image(root / 'images/train/0.jpg', SIZE[::-1], exif=exif)
    data = read_data(root)
    assert [p.kind for p in data.problems] == ['image-turned']
    assert data.items[0].objects[1].box == (0, 0, 40, 30)


def test_a_huge_image(tmp_path, monkeypatch):
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '1000')
    problems = read_data(making.coco(tmp_path)).problems
    assert [(p.kind, p.count) for p in problems] == [('image-huge', 4)]


def test_an_empty_split(tmp_path):
    root = making.yolo(tmp_path)
    for path in (*(root / 'images/val').iterdir(), *(root / 'labels/val').iterdir()):
        path.unlink()
    assert [p.kind for p in read_data(root).problems] == ['split-empty']


def test_no_images_at_all(tmp_path):
    text(tmp_path / 'labels/0.txt', '0 .5 .5 .1 .1')
    (problem,) = read_data(tmp_path).problems
    assert (problem.kind, problem.severity) == ('split-empty', 'error')


def test_points_in_pairs_are_no_polygon(tmp_path):
    """pycocotools would read other memory for some of these masks."""
    root = making.coco(tmp_path)
    pairs = [[[1, 2], [3, 4], [5, 6], [7, 8], [9, 9], [1, 1]]]
    rows = [
        dict(id=i, image_id=1, category_id=1 + i % 2, bbox=[1, 1, 8, 8], segmentation=m)
        for i, m in enumerate(
            (pairs, [['a'] * 6], dict(size=[30, 40], counts='0' * 99))
        )
    ]
    change(root, lambda c: c.update(annotations=rows))
    data = read_data(root)
    found = {problem.kind: problem.count for problem in data.problems}
    assert found['mask-invalid'] == 3
    assert picture(data) is not None


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ([], 'no files'),
        (['a.jpg', 'b.jpg'], '2 .jpg, in no folders'),
        (['images/a.jpg'], '1 .jpg, in the folders images'),
        (['a.csv', 'x/notes.txt'], '1 .csv, 1 .txt'),
    ],
)
def test_unknown_content(tmp_path, files, words):
    for name in files:
        image(tmp_path / name) if name.endswith('.jpg') else text(tmp_path / name, 'a')
    with pytest.raises(UserError) as error:
        read_data(tmp_path)
    message = str(error.value)
    assert words in message
    for name in ('COCO', 'YOLO', 'Pascal VOC', 'LabelMe', 'maps', 'class folders'):
        assert name in message
    assert '\n' not in message


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match='no such file or folder'):
        read_data(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='expected a folder'):
        read_data(image(tmp_path / 'a.jpg'))


def test_the_guide_lists_every_kind(root):
    guide = (root / 'docs/own_data.md').read_text()
    rows = dict(re.findall(r'^\| `([\w-]+)` \| (error|warning) \|', guide, re.M))
    assert rows == {kind: row.severity for kind, row in KINDS.items()}
