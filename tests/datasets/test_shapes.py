"""Tests of the shapes data set."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmmeta.datasets import (
    CLASSES,
    _coco,
    _scene,
    describe_shapes,
    make_scene,
    make_shapes,
    shapes,
)

REPOSITORY = Path(__file__).resolve().parents[2]
COUNTS = {'train': 40, 'val': 20}


def make(root, num_train=3, num_val=2, size=64, **kwargs):
    return make_shapes(
        root, num_train=num_train, num_val=num_val, size=size, progress=False, **kwargs
    )


def hashes(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob('*')
        if path.is_file()
    }


def start_cli(*args):
    env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
    return subprocess.Popen(
        [sys.executable, '-W', 'error', '-m', 'mmmeta.datasets', *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp('data') / 'shapes',
        COUNTS['train'],
        COUNTS['val'],
        size=256,
    )


@pytest.fixture(scope='module')
def scenes():
    return [make_scene(np.random.default_rng([1, k])) for k in range(80)]


@pytest.fixture(params=COUNTS)
def split(request):
    return request.param


@pytest.fixture
def coco(root, split):
    return COCO(root / 'annotations' / f'instances_{split}.json')


def read_semantic(root, split, image):
    path = root / 'semantic' / split / image['file_name']
    return cv2.imread(str(path.with_suffix('.png')), cv2.IMREAD_UNCHANGED)


# -- scenes -----------------------------------------------------------------


@pytest.mark.parametrize('size', [64, 100, 256])
def test_scene_arrays(size):
    for k in range(8):
        scene = make_scene(np.random.default_rng(k), size)
        n = len(scene.labels)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (n, size, size)
        assert scene.masks.dtype == bool
        assert 2 <= n <= 8
        assert scene.labels.dtype == np.int64
        assert 0 <= scene.labels.min() <= scene.labels.max() < len(CLASSES)
        assert scene.masks.sum(0).max() == 1
        assert scene.masks.sum((1, 2)).min() >= 60


def test_scene_does_not_depend_on_threads():
    before = cv2.getNumThreads()
    images = []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            images.append(
                [make_scene(np.random.default_rng(k)).image for k in range(5)]
            )
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*images)


def test_scene_refuses_a_small_size():
    with pytest.raises(ValueError, match='at least 64, got 63'):
        make_scene(np.random.default_rng(0), 63)


def test_instances_show_enough_of_themselves():
    occluded = 0
    for k in range(60):
        placed, owner = _scene._layout(np.random.default_rng(k), 256)
        for index, instance in enumerate(placed):
            full = (instance.alpha >= 0.5).sum()
            visible = (owner == index).sum()
            assert visible >= max(60, 0.5 * full)
            occluded += visible < 0.95 * full
    assert occluded > 30


def test_outlines_can_be_seen(scenes):
    kernel = np.ones((3, 3), np.uint8)
    contrasts = []
    for scene in scenes:
        image = scene.image.astype(float)
        # Nothing is in front of the last instance.
        mask = scene.masks[-1].astype(np.uint8)
        inside = cv2.erode(mask, kernel) > 0
        outside = (cv2.dilate(mask, kernel, iterations=4) > 0) & (
            cv2.dilate(mask, kernel) == 0
        )
        gap = image[inside].mean(0) - image[outside].mean(0)
        contrasts.append(np.linalg.norm(gap))
    assert np.mean(contrasts) > 80
    assert np.quantile(contrasts, 0.05) > 30


def test_color_hints_at_the_class_and_does_not_tell_it(scenes):
    colors = np.array(
        [scene.image[mask].mean(0) for scene in scenes for mask in scene.masks]
    )
    labels = np.concatenate([scene.labels for scene in scenes])
    half = len(labels) // 2
    means = np.array(
        [colors[:half][labels[:half] == k].mean(0) for k in range(len(CLASSES))]
    )
    distances = np.linalg.norm(colors[half:, None] - means, axis=2)
    known = (distances.argmin(1) == labels[half:]).mean()
    assert 0.4 < known < 0.75


# -- annotations ------------------------------------------------------------


def test_coco_fields_and_ids(root, split, coco):
    images = coco.dataset['images']
    annotations = coco.dataset['annotations']
    assert [c['name'] for c in coco.dataset['categories']] == list(CLASSES)
    assert [c['id'] for c in coco.dataset['categories']] == list(range(1, 7))
    assert [i['id'] for i in images] == list(range(1, COUNTS[split] + 1))
    assert [a['id'] for a in annotations] == list(range(1, len(annotations) + 1))
    assert {a['image_id'] for a in annotations} == {i['id'] for i in images}
    assert {a['iscrowd'] for a in annotations} == {0}
    assert {i['license'] for i in images} == {
        entry['id'] for entry in coco.dataset['licenses']
    }
    for image in images:
        pixels = cv2.imread(str(root / 'images' / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)


def test_coco_agrees_with_the_scenes(root, split, coco):
    for image in coco.dataset['images']:
        scene = make_scene(
            np.random.default_rng([0, ('train', 'val').index(split), image['id'] - 1])
        )
        semantic = read_semantic(root, split, image)
        annotations = coco.imgToAnns[image['id']]
        assert len(annotations) == len(scene.masks)
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            decoded = coco.annToMask(annotation).astype(bool)
            iou = (decoded & mask).sum() / (decoded | mask).sum()
            assert iou > (0.95 if mask.sum() > 400 else 0.9)
            assert annotation['area'] == mask.sum()
            assert (semantic[mask] == annotation['category_id']).all()
            rows, columns = np.nonzero(mask)
            assert annotation['bbox'] == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]


def test_segmentation_form_follows_from_holes(coco):
    forms = {list: 0, dict: 0}
    for annotation in coco.dataset['annotations']:
        segmentation = annotation['segmentation']
        forms[type(segmentation)] += 1
        if isinstance(segmentation, list):
            assert all(len(polygon) >= 6 for polygon in segmentation)
        else:
            assert isinstance(segmentation['counts'], str)
            _, hierarchy = cv2.findContours(
                coco.annToMask(annotation), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
            )
            assert (hierarchy[0, :, 3] >= 0).any()
    assert min(forms.values()) >= 5


def test_components_of_a_split_mask_are_all_outlined():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 4:30] = mask[20:35, 10:24] = True
    mask[38, 38] = True
    polygons = _coco.segmentation(mask, (4, 5, 35, 34))
    corners = sorted(np.reshape(p, (-1, 2)).min(0).tolist() for p in polygons)
    assert np.shape(corners) == (2, 2)
    assert np.allclose(corners, [[4, 5], [10, 20]], atol=0.2)


def test_all_classes_and_areas_occur(split, coco):
    annotations = coco.dataset['annotations']
    assert {a['category_id'] for a in annotations} == set(range(1, 7))
    areas = np.array([a['area'] for a in annotations])
    small, large = areas < 32**2, areas >= 96**2
    assert 0.2 < small.mean() < 0.45
    assert 0.08 < large.mean() < 0.28
    assert 0.35 < (~small & ~large).mean() < 0.65


def test_semantic_maps(root, split, coco):
    paths = sorted((root / 'semantic' / split).iterdir())
    assert len(paths) == COUNTS[split]
    seen = set()
    for image in coco.dataset['images']:
        semantic = read_semantic(root, split, image)
        assert semantic.dtype == np.uint8
        assert semantic.shape == (image['height'], image['width'])
        # Pixels of no instance are background.
        area = sum(a['area'] for a in coco.imgToAnns[image['id']])
        assert (semantic != 7).sum() == area
        seen |= set(np.unique(semantic).tolist())
    assert seen == set(range(1, 8))


def test_class_folders(root, split, coco):
    folders = root / 'classes' / split
    assert sorted(p.name for p in folders.iterdir()) == sorted(CLASSES)
    files = {path.name: path for path in folders.glob('*/*')}
    assert len(files) == COUNTS[split]
    for image in coco.dataset['images']:
        largest = max(coco.imgToAnns[image['id']], key=lambda a: a['area'])
        path = files[image['file_name']]
        assert path.parent.name == CLASSES[largest['category_id'] - 1]
        original = root / 'images' / split / image['file_name']
        assert path.read_bytes() == original.read_bytes()


def test_images_are_copied_where_links_fail(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError('no links here')

    linked = make(tmp_path / 'linked')
    monkeypatch.setattr(os, 'link', refuse)
    copied = make(tmp_path / 'copied')
    assert hashes(copied) == hashes(linked)


# -- determinism ------------------------------------------------------------


def test_seed_decides_every_byte(tmp_path):
    first = hashes(make(tmp_path / 'a', seed=5))
    assert first == hashes(make(tmp_path / 'b', seed=5))
    other = hashes(make(tmp_path / 'c', seed=6))
    for name in first:
        if name.startswith('images/'):
            assert first[name] != other[name]


def test_images_do_not_depend_on_their_number(tmp_path):
    few = make(tmp_path / 'few', num_train=2, num_val=1)
    many = make(tmp_path / 'many', num_train=5, num_val=4)
    few_hashes, many_hashes = hashes(few), hashes(many)
    common = [name for name in few_hashes if not name.endswith('.json')]
    assert len(common) == 3 * 3
    for name in common:
        assert few_hashes[name] == many_hashes[name]


def test_splits_share_no_image(root):
    digests = [
        digest for name, digest in hashes(root).items() if name.startswith('images/')
    ]
    assert len(set(digests)) == len(digests) == sum(COUNTS.values())


# -- the folder -------------------------------------------------------------


def test_existing_set_is_reused(tmp_path, monkeypatch):
    root = make(tmp_path / 'deep' / 'shapes')
    times = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    monkeypatch.setattr(shapes, 'make_scene', None)  # must not be called
    assert make(str(root)) == root
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob('*')}


@pytest.mark.parametrize(
    'lost',
    [
        'dataset.json',
        'images/train/000002.jpg',
        'semantic/val/000001.png',
        'annotations/instances_val.json',
    ],
)
def test_incomplete_set_is_made_anew(tmp_path, lost):
    root = make(tmp_path / 'shapes')
    before = hashes(root)
    (root / lost).unlink()
    make(root)
    assert hashes(root) == before


def test_set_of_other_parameters_is_replaced(tmp_path):
    root = make(tmp_path / 'shapes', num_train=4, seed=1)
    make(root, num_train=2)
    assert hashes(root) == hashes(make(tmp_path / 'fresh', num_train=2))
    assert sorted(os.listdir(tmp_path)) == ['fresh', 'shapes']


def test_empty_folder_and_link_are_accepted(tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'link'
    link.symlink_to('disk')
    assert make(link) == link
    assert link.is_symlink()
    assert (tmp_path / 'disk' / 'dataset.json').is_file()


def test_foreign_folder_is_refused(tmp_path):
    photo = tmp_path / 'images' / 'train' / '000001.jpg'
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='Choose another root'):
        make(tmp_path)
    assert photo.read_bytes() == b'mine'
    with pytest.raises(FileExistsError, match='Choose another root'):
        make(photo)


def test_foreign_file_in_a_set_is_not_lost(tmp_path):
    root = make(tmp_path / 'shapes')
    note = root / 'images' / 'note.txt'
    note.write_text('mine')
    make(root)  # nothing to be done
    with pytest.raises(FileExistsError, match=r'images/note\.txt'):
        make(root, seed=1)
    assert note.read_text() == 'mine'


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    old = make(tmp_path / 'old')
    before = hashes(old)
    calls = []

    def interrupted(rng, size, easy):
        calls.append(size)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return make_scene(rng, size, easy)

    monkeypatch.setattr(shapes, 'make_scene', interrupted)
    for name in ('new', 'old'):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / name, seed=1)
    assert os.listdir(tmp_path) == ['old']
    assert hashes(old) == before


def test_set_made_meanwhile_by_another_process_is_used(tmp_path, monkeypatch):
    root = tmp_path / 'shapes'
    write_set = shapes._write_set
    inode = []

    def overtaken(built, params, progress):
        write_set(built, params, progress)
        write_set(root, params, progress)
        inode.append(root.stat().st_ino)

    monkeypatch.setattr(shapes, '_write_set', overtaken)
    make(root)
    assert inode == [root.stat().st_ino]
    assert os.listdir(tmp_path) == ['shapes']


@pytest.mark.parametrize(
    'name, value',
    [
        ('num_train', 0),
        ('num_val', -1),
        ('num_val', 10**6),
        ('size', 63),
        ('size', 64.5),
        ('seed', -1),
        ('seed', 2**32),
        ('seed', None),
    ],
)
def test_bad_arguments(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} .* integer .* {value}'):
        make(tmp_path / 'shapes', **{name: value})
    assert not os.listdir(tmp_path)


def test_thread_setting_is_left_alone(tmp_path):
    before = cv2.getNumThreads()
    make(tmp_path / 'shapes')
    assert cv2.getNumThreads() == before


# -- command line -----------------------------------------------------------


def test_command_line_by_two_processes_at_once(tmp_path):
    root = tmp_path / 'shapes'
    args = [
        '--root',
        str(root),
        '--num-train',
        '6',
        '--num-val',
        '2',
        '--size',
        '96',
        '--seed',
        '3',
    ]
    for process in [start_cli(*args), start_cli(*args)]:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert str(root) in out
        assert 'train: 6 images' in out
    assert os.listdir(tmp_path) == ['shapes']
    params = json.loads((root / 'dataset.json').read_text())
    assert (params['num_train'], params['size'], params['seed']) == (6, 96, 3)


def test_command_line_tells_errors(tmp_path):
    process = start_cli('--root', str(tmp_path / 'shapes'), '--size', '10')
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ''
    assert 'size must be an integer from 64' in err
    assert 'Traceback' not in err


def test_progress_is_written_to_stderr(tmp_path, capsys):
    make_shapes(tmp_path / 'shapes', num_train=2, num_val=1, size=64)
    out, err = capsys.readouterr()
    assert out == ''
    assert 'train images: 100%|' in err
    assert 'val images: 100%|' in err


def test_description_counts_every_instance(root, split, coco):
    text = describe_shapes(root)
    part = text[text.index(f'{split}:') :].splitlines()[:8]
    assert part[0] == (
        f'{split}: {COUNTS[split]} images, {len(coco.dataset["annotations"])} instances'
    )
    assert part[1].split() == ['small', 'medium', 'large']
    rows = [line.split() for line in part[2:]]
    assert [row[0] for row in rows] == list(CLASSES)
    assert sum(int(n) for row in rows for n in row[1:]) == len(
        coco.dataset['annotations']
    )


def test_easy_set_has_few_large_shapes_that_show(tmp_path):
    process = start_cli(
        '--root', str(tmp_path / 'shapes'), '--easy', '--num-train=20', '--num-val=2'
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    coco = COCO(tmp_path / 'shapes/annotations/instances_train.json')
    counts = [len(coco.imgToAnns[image]) for image in coco.imgs]
    assert min(counts) == 2
    assert max(counts) == 4
    assert min(a['area'] for a in coco.anns.values()) > 0.6 * 2200
    hard = make(tmp_path / 'hard', num_train=20, size=256)
    assert hashes(hard) != hashes(tmp_path / 'shapes')
    assert len(coco.anns) < len(COCO(hard / 'annotations/instances_train.json').anns)


def test_import_is_light():
    code = (
        'import sys, mmmeta.datasets; print(sorted({"torch", "mmcv", '
        '"mmdet", "mmseg", "mmpretrain"} & set(sys.modules)))'
    )
    out = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY)),
    )
    assert out.stdout.strip() == '[]'
