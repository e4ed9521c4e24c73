"""The config that `mmmeta finetune` writes: each method, backbone and kind of data."""

import base64
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import making
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image
from undrawn import nothing_drawn

import mmmeta
from mmmeta.archs.families import ARCHS
from mmmeta.errors import UserError
from mmmeta.hosts.config import load_config
from mmmeta.tuning.files import write_text
from mmmeta.tuning.plan import DEFAULTS, METHODS

BACKBONES = (
    *('poolformer_s24', 'poolformer_m48', 'identityformer_s12', 'randformer_m36'),
    *('poolformerv2_s36', 'convformer_b36', 'caformer_m36', 'uniformer_base'),
    'uniformer_small_plus_dim64',
)


def written(path: Path, work: Path, **options: Any) -> Config:
    """Write a config without training, and read it as a tool would."""
    folder = mmmeta.finetune(path, work_dir=work, dry_run=True, workers=0, **options)
    assert folder == work
    return load_config(str(work / 'config.py'))


def parts(value: Any, path: str = '') -> Iterator[tuple[str, str, Any]]:
    """Yield the path, key and value of everything in a config."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in inner:
        yield path, str(key), child
        if isinstance(child, dict | list | tuple):
            yield from parts(child, f'{path}.{key}')


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device('meta'), nothing_drawn():
        return MODELS.build(copy.deepcopy(cfg.model))


def batch(cfg: Config, name: str = 'train_dataloader') -> list[Any]:
    """Return the samples of a loader's first batch."""
    init_default_scope(cfg.default_scope)
    data = next(iter(Runner.build_dataloader(copy.deepcopy(cfg[name]), seed=0)))
    return data['data_samples']


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny data set for each task; the first has boxes and masks."""
    root = tmp_path_factory.mktemp('tiny')
    masks = making.coco(root / 'coco')
    for file in masks.glob('annotations/*.json'):
        content = json.loads(file.read_text())
        for row in content['annotations']:
            x, y, w, h = row['bbox']
            row['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        file.write_text(json.dumps(content))
    return {
        'detection': making.yolo(root / 'yolo'),
        'instances': masks,
        'segmentation': making.png(root / 'png'),
        'classification': making.folders(root / 'folders'),
    }


@pytest.mark.parametrize(
    ('method', 'backbone', 'weights'),
    [
        (method, backbone, ('zoo', 'none')[j % 2])
        for i, method in enumerate(METHODS)
        for j, backbone in enumerate(BACKBONES)
        if (i + j) % 4 == 0
    ],
)
def test_every_method_fits_every_backbone(method, backbone, weights, data, tmp_path):
    task = METHODS[method][0]
    cfg = written(
        data[task], tmp_path, method=method, backbone=backbone, weights=weights
    )
    count = len(cfg.metainfo.classes)
    model_cfg = cfg.model.to_dict()
    assert not [where for where, key, _ in parts(cfg.to_dict()) if key == '_delete_']
    numbers = {value for _, key, value in parts(model_cfg) if key == 'num_classes'}
    assert numbers == {count}
    given = cfg.model.backbone.get('init_cfg') or {}
    if weights == 'zoo':
        assert given['type'] == 'Pretrained'
        assert given['checkpoint'].startswith(f'mmmeta://{backbone}.')
    else:
        assert given['type'] == 'Kaiming'
    assert cfg.get('load_from') is None

    model = build(cfg).eval()
    assert type(model.backbone).__name__.lower() == backbone.split('_')[0]
    assert model.backbone.arch.dims == ARCHS[backbone].dims
    assert model.backbone.arch.depths == ARCHS[backbone].depths
    images = torch.empty(2, 3, 64, 96, device='meta')
    if task in ('detection', 'instances'):
        assert len({maps.shape[1] for maps in model.extract_feat(images)}) == 1
    else:
        scores = model(images, None, mode='tensor')
        if task == 'classification':
            scores = (model.head(scores),) if scores[0].ndim == 2 else (scores,)
        assert scores[0].shape[-3 if task == 'segmentation' else -1] == count


@pytest.mark.parametrize('method', DEFAULTS.values())
def test_the_loaders_have_the_data(method, data, tmp_path):
    cfg = written(data[METHODS[method][0]], tmp_path, method=method)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        samples = batch(cfg, name)
        # In a batch, images are padded to the largest, which changes the score.
        if name != 'train_dataloader' and method != 'classifier':
            assert len(samples) == 1
        for sample in samples:
            assert sample.img_path.endswith('.jpg')
            if 'gt_instances' in sample:
                assert sorted(sample.gt_instances.labels.tolist()) == [0, 1]
                boxes = sample.gt_instances.bboxes
                boxes = getattr(boxes, 'tensor', boxes)
                assert sorted(boxes[:, 2] - boxes[:, 0]) == [20, 40]
            elif 'gt_sem_seg' in sample:
                values = set(sample.gt_sem_seg.data.unique().tolist())
                assert {0, 1, 2} <= values <= {0, 1, 2, 255}
            else:
                folder = Path(sample.img_path).parent.name
                assert making.NAMES[sample.gt_label.item()] == folder


def test_published_models_are_those_of_their_configs(data, tmp_path):
    """Of a backbone with a config of its own nothing is repeated."""
    cfg = written(data['instances'], tmp_path, backbone='caformer_m36')
    text = (tmp_path / 'config.py').read_text()
    assert "'mmmeta::detection/mask_rcnn_caformer_m36.py'" in text
    assert 'backbone' not in text
    base = load_config('mmmeta::detection/mask_rcnn_caformer_m36.py')
    assert cfg.model.backbone == base.model.backbone
    assert cfg.optim_wrapper.optimizer.lr < base.optim_wrapper.optimizer.lr


@pytest.mark.parametrize(
    'weights',
    [
        'retinanet_poolformer_s24',
        'mask_rcnn_uniformer_base_ms_3x',
        'cascade_mask_rcnn_uniformer_small_ms_3x',
    ],
)
def test_published_detectors(weights, data, tmp_path):
    """The method and the config are theirs, and nothing is initialized besides."""
    cfg = written(data['instances'], tmp_path, weights=weights)
    text = (tmp_path / 'config.py').read_text()
    assert f"'mmmeta::detection/{weights}.py'" in text
    assert cfg.load_from == f'mmmeta://{weights}'
    assert cfg.model.backbone.get('init_cfg') is None
    build(cfg)
    for sample in batch(cfg):  # also where sizes are drawn
        assert max(sample.img_shape) <= 48 and sample.gt_instances.labels.numel() == 2


def test_other_weights_of_a_backbone(data, tmp_path):
    name = 'caformer_s18.sail_in22k'
    cfg = written(data['detection'], tmp_path, weights=name)
    assert cfg.model.backbone.type == 'mmmeta.CAFormer'
    assert cfg.model.backbone.init_cfg.checkpoint == f'mmmeta://{name}'
    assert cfg.get('load_from') is None


# -- odd data ---------------------------------------------------------------------


ODD_NAMES = ["it's", '"two"', 'back\\slash', '{{ fileDirname }}', 'größe 大', 'a b', '']


def test_class_names_of_any_characters(tmp_path):
    root = making.coco(tmp_path / 'data')
    for file in root.glob('annotations/*.json'):
        content = json.loads(file.read_text())
        content['categories'] = [
            dict(id=i, name=name) for i, name in enumerate(ODD_NAMES, 1)
        ]
        file.write_text(json.dumps(content))
    cfg = written(root, tmp_path / 'work')
    assert cfg.metainfo.classes == tuple(ODD_NAMES)
    (first, *_) = batch(cfg)
    assert sorted(first.gt_instances.labels.tolist()) == [0, 1]


@pytest.mark.parametrize('task', ['coco', 'png', 'folders'])
def test_folders_of_any_names(task, tmp_path, monkeypatch):
    """Also relative to a folder that is another one when training begins."""
    here = tmp_path / "mit \"Leer\" und é\\大 '''"
    making.ALL[task](here / 'my data')
    monkeypatch.chdir(here)
    cfg = written(Path('my data'), Path('work dir'))
    monkeypatch.chdir(tmp_path)
    assert cfg.filename
    for sample in (*batch(cfg), *batch(cfg, 'val_dataloader')):
        assert os.path.isfile(sample.img_path)


def test_the_work_dir_may_be_in_the_data_set_and_hold_it(tmp_path, monkeypatch):
    root = making.yolo(tmp_path / 'data')
    monkeypatch.chdir(root)
    first = mmmeta.finetune('.', dry_run=True)
    assert first == Path('work_dirs/data_retinanet')
    before = (first / 'config.py').read_text()
    mmmeta.finetune('.', dry_run=True)  # what was written is no data
    assert (first / 'config.py').read_text() == before
    cfg = written(root, tmp_path)  # it is in here
    assert len(json.loads(Path(cfg.val_evaluator.ann_file).read_text())['images']) == 2
    assert len(list(root.rglob('*.jpg'))) == 4


def test_files_of_users_are_not_overwritten(tmp_path):
    root = making.yolo(tmp_path / 'a')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/config.py').write_text('mine = 1\n')
    with pytest.raises(UserError, match=r'work/config\.py exists, and is not of'):
        written(root, tmp_path / 'work')
    (tmp_path / 'b/finetune_data').mkdir(parents=True)
    (tmp_path / 'b/finetune_data/notes.txt').write_text('mine')
    with pytest.raises(
        UserError, match=r'b/finetune_data exists, and is not of an earlier run'
    ):
        written(root, tmp_path / 'b')
    assert (tmp_path / 'b/finetune_data/notes.txt').read_text() == 'mine'


def test_a_full_disk_leaves_no_half_file(tmp_path, limit):
    limit(200)
    with pytest.raises(UserError, match=r'x\.json cannot be written: File too large'):
        write_text(tmp_path / 'x.json', 300 * 'x')
    assert list(tmp_path.iterdir()) == []


def test_no_image_is_in_two_splits_after_another_seed(tmp_path):
    root = tmp_path / 'data'
    for number in range(10):
        making.image(root / f'{number}.jpg')
        values = making.some_values(0, 1)
        making.a_map(root / f'{number}_mask.png', values)
    held = []
    for seed in (0, 1):
        cfg = written(root, tmp_path / 'work', seed=seed)
        splits = []
        for name in ('train', 'val'):
            folder = tmp_path / f'work/finetune_data/images/{name}'
            splits.append({link.resolve().name for link in folder.iterdir()})
        train, val = splits
        assert len(train) == 8 and len(val) == 2 and not train & val
        held.append(val)
        assert cfg.randomness.seed == seed
    assert held[0] != held[1]


def test_each_class_is_held_out(tmp_path):
    root = tmp_path / 'data'
    for name, count in (('cat', 15), ('dog', 5), ('emu', 1)):
        for number in range(count):
            making.image(root / name / f'{number}.jpg')
    written(root, tmp_path / 'work')
    lines = (tmp_path / 'work/finetune_data/val.txt').read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == ['0', '0', '0', '1']
    train = (tmp_path / 'work/finetune_data/train.txt').read_text().splitlines()
    assert len(train) == 17


def test_a_test_split_is_tested(tmp_path, data):
    root = making.folders(tmp_path / 'folders')
    for name in making.NAMES:
        making.image(root / 'test' / name / 'a b.jpg')
    cfg = written(root, tmp_path / 'work', batch_size=2)
    paths = [sample.img_path for sample in batch(cfg, 'test_dataloader')]
    assert sorted(p.split('/test/')[1] for p in paths) == ['cat/a b.jpg', 'dog/a b.jpg']
    cfg = written(data['instances'], tmp_path / 'other')  # none is there
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator


def test_images_inside_of_labelme_files(tmp_path):
    """Also of equal names; they become files."""
    root, pixels = tmp_path / 'data', {}
    for number in range(6):
        file = making.image(tmp_path / f'{number}.png')
        with Image.open(file) as image:
            pixels[number] = np.asarray(image)
        encoded = base64.b64encode(file.read_bytes()).decode()
        shapes = [making.shape(str(number), 'rectangle', [[4, 6], [24, 16]])]
        path = root / f'{number}/one.json'
        making.labelme_file(path, shapes)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(dict(content, imageData=encoded)))
    cfg = written(root, tmp_path / 'work', batch_size=6)
    samples = [*batch(cfg), *batch(cfg, 'val_dataloader')]
    assert len({sample.img_path for sample in samples}) == 6
    for sample in samples:
        number = int(cfg.metainfo.classes[sample.gt_instances.labels.item()])
        with Image.open(sample.img_path) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[number])


def test_images_without_objects_and_small_ones_are_used(tmp_path):
    root = making.yolo(tmp_path / 'data')
    (root / 'labels/train/0.txt').write_text('')
    making.image(root / 'images/train/2.jpg', (16, 20))
    (root / 'labels/train/2.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    cfg = written(root, tmp_path / 'work', batch_size=3)
    counts = [len(sample.gt_instances) for sample in batch(cfg)]
    assert sorted(counts) == [0, 1, 2]


def test_crowds_and_run_lengths(tmp_path):
    """Crowds are ignored in training and in the score; masks are the same as before."""
    from pycocotools import mask

    root = making.coco(tmp_path / 'data')
    area = np.zeros((30, 40), np.uint8, order='F')
    area[6:16, 4:24] = 1
    packed = mask.encode(area)
    packed = dict(size=packed['size'], counts=packed['counts'].decode())
    plain = dict(size=[30, 40], counts=[126, 10, *[20, 10] * 19, 494])
    for file in root.glob('annotations/*.json'):
        content = json.loads(file.read_text())
        for number, row in enumerate(content['annotations']):
            row['segmentation'] = (packed, plain)[number % 2]
            row['bbox'], row['area'] = [4, 6, 20, 10], 200
            row['iscrowd'] = int(row['image_id'] == 1)
        file.write_text(json.dumps(content))
    cfg = written(root, tmp_path / 'work', method='mask_rcnn', batch_size=2)
    for sample in batch(cfg):
        few, many = sample.gt_instances, sample.ignored_instances
        assert sorted([len(few), len(many)]) == [0, 2]
        for masks in (few.masks.masks, many.masks.masks):
            for found in masks:
                flipped = found if sample.flip is False else found[:, ::-1]
                np.testing.assert_array_equal(flipped, area)


@pytest.mark.parametrize(
    ('values', 'names', 'expected'),
    [
        # Stock tools would ignore 255, and count 101 classes.
        ((0, 255), None, {0, 1}),
        ((0, 50, 100), None, {0, 1, 2}),
        ((0, 1, 2), 'cat\ndog\n', {0, 1, 255}),  # as in ADE20K
    ],
)
def test_values_of_maps(values, names, expected, tmp_path):
    root = making.png(tmp_path / 'data', making.some_values(*values))
    if names:
        (root / 'classes.txt').write_text(names)
    cfg = written(root, tmp_path / 'work')
    found = set(batch(cfg)[0].gt_sem_seg.data.unique().tolist())
    assert expected <= found <= {*expected, 255}
    assert len(cfg.metainfo.classes) == len(expected - {255})


def test_rare_classes_are_repeated(tmp_path):
    root = tmp_path / 'data'
    for number in range(30):
        making.image(root / f'train/{number}.jpg')
        name = 'rare' if number == 29 else 'cat'
        shapes = [making.shape(name, 'rectangle', [[4, 6], [24, 16]])]
        making.labelme_file(root / f'train/{number}.json', shapes)
    cfg = written(root, tmp_path / 'work')
    assert cfg.train_dataloader.dataset.type == 'ClassBalancedDataset'
    init_default_scope(cfg.default_scope)
    loader = Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=0)
    assert len(loader.dataset) == 25  # of 24
    assert loader.dataset.metainfo['classes'] == ('cat', 'rare')


@pytest.mark.parametrize('task', ['detection', 'segmentation', 'classification'])
def test_sizes_of_images(task, data, tmp_path):
    cfg = written(data[task], tmp_path, image_size=(96, 64))
    text = (tmp_path / 'config.py').read_text()
    shapes = {sample.img_shape[:2] for sample in batch(cfg)}
    if task == 'detection':
        assert all(max(shape) <= 96 and min(shape) <= 64 for shape in shapes)
    elif task == 'segmentation':  # crops of what is drawn smaller or larger
        assert all(max(shape) <= 64 for shape in shapes)
    else:
        assert shapes == {(64, 64)}
    assert '1333' not in text and '512' not in text


@pytest.mark.parametrize(
    ('method', 'side'),
    [('retinanet', 800), ('mask_rcnn', 800), ('semantic_fpn', 512)],
)
def test_large_images_without_weights(method, side, tmp_path):
    """The recipe for random weights is for small images, which may be upside down."""
    root = tmp_path / 'data'
    if method == 'semantic_fpn':
        making.png(root, np.tile(making.some_values(0, 1, 2), (20, 20)))
    else:
        making.yolo(root, polygons=method == 'mask_rcnn')
    for path in root.rglob('*.jpg'):
        making.image(path, (800, 600) if method == 'semantic_fpn' else (1400, 900))
    cfg = written(root, tmp_path / 'work', weights='none', method=method)
    # They are seen larger and smaller, and no part is outside of the usual size.
    longest = 1333 if side == 800 else side
    sizes = {sample.img_shape[:2] for _ in range(3) for sample in batch(cfg)}
    assert len(sizes) > 1 or method == 'semantic_fpn'  # larger ones are cropped to it
    for size in sizes:
        assert 0.74 * side <= min(size) and max(size) <= longest
    types = {v for _, k, v in parts(cfg.train_dataloader) if k == 'type'}
    assert types >= {'RandomResize', 'RandomCrop', 'PhotoMetricDistortion'}
    shown = batch(cfg, 'val_dataloader')
    assert {min(sample.img_shape[:2]) for sample in shown} == {side}
    flips = [v for _, k, v in parts(cfg.train_dataloader) if k == 'direction']
    assert not flips
    if method == 'retinanet':
        anchors = build(cfg).bbox_head.prior_generator
        assert len(anchors.strides) == cfg.model.neck.num_outs == 5
        assert anchors.ratios.shape == (3,)
