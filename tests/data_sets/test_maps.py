"""Maps and class folders as tools and publishers write them."""

import numpy as np
import pytest
from data_sets import making
from data_sets.making import NAMES, image, some_values, text
from PIL import Image

from mmmeta.data import read_data
from mmmeta.data.maps import read_map


def read(root, kinds=()):
    """Read a data set whose problems are of some kinds."""
    data = read_data(root)
    assert [problem.kind for problem in data.problems] == list(kinds), data.problems
    return data


# -- maps ---------------------------------------------------------------------


def maps_of(data):
    return [read_map(item.map, data.maps) for item in data.items]


def test_indices_with_names_and_ignored_pixels(tmp_path):
    root = making.png(tmp_path, some_values(0, 1, 2, 255))
    text(root / 'classes.txt', 'background\ncat\ndog\n')
    data = read(root)
    assert data.classes == ['background', 'cat', 'dog']
    assert (data.maps.kind, data.maps.direct) == ('index', True)
    assert not data.maps.zero_ignored
    for values in maps_of(data):
        np.testing.assert_array_equal(values, some_values(0, 1, 2, 255))
    assert data.splits['train'].annotations == root / 'annotations/train'
    assert data.items[0].extra['counts'] == {0: 300, 1: 300, 2: 300}


def test_zero_is_ignored(tmp_path):
    """As in ADE20K: two names, and values from 0 to 2."""
    root = making.png(tmp_path)
    text(root / 'classes.txt', 'cat\ndog\n')
    data = read(root)
    assert data.maps.zero_ignored and data.maps.direct
    np.testing.assert_array_equal(maps_of(data)[0], some_values(255, 0, 1))


def test_background_and_foreground(tmp_path):
    data = read(making.png(tmp_path, some_values(0, 255)), ['map-binary'])
    assert data.classes == ['background', 'foreground']
    assert not data.maps.direct
    np.testing.assert_array_equal(maps_of(data)[0], some_values(0, 1))


def test_a_palette(tmp_path):
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    root = making.png(tmp_path, palette=palette)
    text(root / 'labelmap.txt', '# label:color_rgb:parts:actions\nbackground:0,0,0::\n'
         'dog:0,128,0::\ncat:128,0,0::\n')  # fmt: skip
    data = read(root)
    assert data.classes == ['background', 'cat', 'dog']
    assert data.maps.colors == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert data.maps.direct
    np.testing.assert_array_equal(maps_of(data)[0], some_values(0, 1, 2))


@pytest.mark.parametrize(
    ('file', 'content'),
    [
        ('', ''),
        ('class_dict.csv', 'name,r,g,b\nroad,128,64,128\nsky,70,130,180\n'),
        ('labelmap.txt', 'road:128,64,128::\nsky:70,130,180::'),
        ('label_colors.txt', '128 64 128\troad\n70 130 180\tsky\n'),
    ],
)
def test_colors(tmp_path, file, content):
    colors = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)
    root = making.png(tmp_path, colors[some_values(0, 1)])
    if file:
        text(root / file, content)
    data = read(root, ['map-colors'])
    assert data.classes == (
        ['road', 'sky'] if file else ['color_4682b4', 'color_804080']
    )
    expected = some_values(0, 1) if file else some_values(1, 0)
    np.testing.assert_array_equal(maps_of(data)[0], expected)


def test_palettes_that_differ_are_colors(tmp_path):
    root = making.png(tmp_path, some_values(0, 1), palette=[0, 0, 0, 9, 0, 0])
    making.a_map(
        root / 'annotations/train/0.png', some_values(1, 0), [9, 0, 0, 0, 0, 0]
    )
    data = read(root, ['map-colors'])
    assert data.classes == ['background', 'color_090000']
    for values in maps_of(data):
        np.testing.assert_array_equal(values, some_values(0, 1))


def test_three_equal_channels(tmp_path):
    gray = np.stack([some_values(0, 1, 2)] * 3, -1)
    data = read(making.png(tmp_path, gray), ['map-colors'])
    assert data.classes == ['0', '1', '2']
    assert not data.maps.direct
    np.testing.assert_array_equal(maps_of(data)[0], some_values(0, 1, 2))


@pytest.mark.parametrize(
    ('picture', 'label'),
    [
        ('{n}.jpg', '{n}_mask.png'),
        ('train/{n}.jpg', 'train/{n}_mask.png'),
        ('train/{n}.png', 'train_labels/{n}_L.png'),
        ('trainset/{n}.png', 'trainannot/{n}.png'),
        ('JPEGImages/{n}.jpg', 'SegmentationClass/{n}.png'),
        (
            'leftImg8bit/train/x/{n}_leftImg8bit.png',
            'gtFine/train/x/{n}_gtFine_labelIds.png',
        ),
        ('photos/{n}.JPG', 'masks/{n}.PNG'),
        ('Images/a.b.{n}.jpg', 'ground_truth/a.b.{n}.png'),
    ],
)
def test_names_of_maps(tmp_path, picture, label):
    for n in ('ä', '2'):
        image(tmp_path / picture.format(n=n))
        making.a_map(tmp_path / label.format(n=n), some_values(0, 1))
    data = read(tmp_path)
    assert data.format == 'png'
    assert len(data.items) == 2
    found = {item.path: item.map for item in data.items}
    assert found == {
        tmp_path / picture.format(n=n): tmp_path / label.format(n=n) for n in ('ä', '2')
    }
    images = data.splits['train'].images
    assert all(item.path == images / item.name for item in data.items)


def test_folders_called_as_maps(tmp_path):
    """Photographs in folders that could be those of maps are classes."""
    rng = np.random.RandomState(0)
    for name in ('masks', 'faces'):
        for n in range(3):
            noise = rng.randint(0, 256, (64, 64, 3), np.uint8)
            path = tmp_path / name / f'{n}.png'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(noise).save(path)
    data = read(tmp_path)
    assert (data.format, data.classes) == ('folders', ['faces', 'masks'])


def test_smoothed_maps(tmp_path):
    """Saved as JPEG, or resized with interpolation."""
    root = making.png(tmp_path)
    for number, suffix in enumerate(('jpg', 'png')):
        (root / f'annotations/train/{number}.png').unlink()
        values = (
            some_values(0, 255) if suffix == 'jpg' else np.zeros((30, 40), np.uint8)
        )
        if suffix == 'png':
            values[10:, 10:] = np.arange(600).reshape(20, 30) % 100
        making.a_map(root / f'annotations/train/{number}.{suffix}', values)
    data = read(root, ['map-lossy', 'class-empty'])
    assert data.problems[0].count == 2
    assert data.classes == ['0', '1', '2']


def test_lists_of_pascal_voc(tmp_path):
    for n in ('1', '2'):
        image(tmp_path / f'JPEGImages/{n}.jpg')
        making.a_map(tmp_path / f'SegmentationClass/{n}.png', some_values(0, 1))
    text(tmp_path / 'ImageSets/Segmentation/train.txt', '1\n')
    text(tmp_path / 'ImageSets/Segmentation/val.txt', '2\n')
    data = read(tmp_path)
    assert {n: len(s.items) for n, s in data.splits.items()} == {'train': 1, 'val': 1}


# -- class folders ------------------------------------------------------------


def test_one_level_of_folders(tmp_path):
    for name in ('with_mask', 'without_mask'):  # no maps
        image(tmp_path / name / 'deep/x.PNG')
        text(tmp_path / name / '.DS_Store', 'x')
    data = read(tmp_path)
    assert data.format == 'folders'
    assert data.classes == ['with_mask', 'without_mask']
    assert [item.label for item in data.items] == [0, 1]
    assert data.items[0].name == 'with_mask/deep/x.PNG'


def test_other_names_of_splits(tmp_path):
    for split in ('training', 'Validation', 'test'):
        for name in NAMES:
            image(tmp_path / split / name / 'x.jpg')
    data = read(tmp_path)
    assert [split.source for split in data.splits.values()] == [
        *('training', 'Validation', 'test')
    ]


def test_a_folder_around_the_data_set(tmp_path):
    for build in (making.folders, making.png, making.voc, making.yolo, making.coco):
        root = tmp_path / build.__name__
        expected = build(root / 'archive/data set')
        data = read(root)
        assert [item.path for item in data.items] == [
            item.path for item in read(expected).items
        ]
        for split in data.splits.values():
            assert split.items[0].path == split.images / split.items[0].name


def test_links(tmp_path):
    real = making.folders(tmp_path / 'real')
    (tmp_path / 'linked').mkdir()
    for split in ('train', 'val'):
        (tmp_path / 'linked' / split).symlink_to(real / split)
    (tmp_path / 'linked' / 'loop').symlink_to(tmp_path)
    data = read_data(tmp_path / 'linked')
    assert [len(split.items) for split in data.splits.values()] == [4, 4]
