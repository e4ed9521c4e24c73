"""The commands on models that are valid and unusual."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from odd_models import (
    ARCH,
    BINARY,
    LINEAR,
    SIDE,
    backbone,
    build,
    classifier,
    detector,
    segmentor,
    write,
)
from PIL import Image
from torch import nn

from mmmeta.cli import main
from mmmeta.commands.explain.maps import explain
from mmmeta.commands.explain.scores import CONFIDENT, DenseScores
from mmmeta.commands.explain.subjects import load_subject
from mmmeta.commands.flops.counting import count_target
from mmmeta.errors import UserError


def noise(*channels: int) -> np.ndarray:
    shape = (48, SIDE, *channels)  # not square
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


@pytest.fixture
def image(tmp_path) -> Path:
    """Colored noise."""
    path = tmp_path / 'in/rgb.png'
    path.parent.mkdir()
    Image.fromarray(noise(3)).save(path)
    return path


def predict(folder: Path, *inputs: Path) -> int:
    arguments = [folder / 'c.py', folder / 'm.pth', *inputs]
    arguments += ['--out-dir', folder / 'out', '--device', 'cpu']
    return main(['predict', *map(str, arguments)])


def table(folder: Path) -> dict[tuple[str, int], float]:
    """The scores by file and index."""
    with (folder / 'out/top5.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    return {(row['file'], int(row['index'])): float(row['score']) for row in rows}


def resized(pixels: np.ndarray) -> np.ndarray:
    import mmcv

    return mmcv.imresize(pixels, (SIDE, SIDE))


# -- other channels ---------------------------------------------------------------

BACKBONES = {
    'ours': lambda n: dict(model=backbone(in_channels=n)),
    'classifier': lambda n: classifier(LINEAR, n, mean=None, std=None),
    'segmentor': lambda n: dict(
        segmentor(), model=dict(segmentor()['model'], backbone=backbone(in_channels=n))
    ),
    'stock': lambda n: dict(
        model=dict(type='ResNet', depth=18, in_channels=n), default_scope='mmdet'
    ),
}


@pytest.mark.parametrize('kind', BACKBONES)
def test_flops_of_other_channels(kind, tmp_path, capsys):
    """Each channel more costs what the first convolution does with it."""
    costs = []
    for channels in (3, 4):
        path = tmp_path / f'{channels}.py'
        Config(BACKBONES[kind](channels)).dump(path)
        assert main(['flops', str(path), '--shape', '64', '--json']) == 0
        costs.append(json.loads(capsys.readouterr().out)['total'])
    filters, positions = (64, 32**2) if kind == 'stock' else (16, 16**2)
    assert costs[1]['params'] - costs[0]['params'] == 49 * filters
    assert costs[1]['macs'] - costs[0]['macs'] == 49 * filters * positions


def test_a_classifier_of_gray_images(image, tmp_path):
    """Any image is read as gray."""
    cfg = classifier(LINEAR, 1, mean=[120.0], std=[50.0])
    model = write(cfg, tmp_path)[2]
    Image.fromarray(noise()).save(image.with_name('gray.png'))
    assert predict(tmp_path, image.parent) == 0
    found = table(tmp_path)
    for name in ('gray.png', 'rgb.png'):
        pixels = np.asarray(Image.open(image.with_name(name)).convert('L'))
        x = (torch.from_numpy(resized(pixels))[None, None].float() - 120) / 50
        with torch.no_grad():
            expected = model(x).softmax(1)[0]
        scores = torch.tensor([found[name, i] for i in range(3)])
        # Pillow and OpenCV differ by one in some pixels.
        torch.testing.assert_close(scores, expected, atol=2e-3, rtol=0)
    subject = load_subject(f'{tmp_path / "c.py"}={tmp_path / "m.pth"}')
    view = subject.prepare(noise(3))
    assert view.tensor.shape == (1, 1, SIDE, SIDE)
    assert abs(float(view.tensor.mean())) < 0.3


def test_a_classifier_of_four_channels(image, tmp_path, capsys):
    cfg = classifier(LINEAR, 4, mean=None, std=None, to_rgb=False)
    model = write(cfg, tmp_path)[2]
    rgba = noise(4)
    Image.fromarray(rgba).save(image.with_name('rgba.png'))
    assert predict(tmp_path, image.parent) == 1
    assert f'{image}: it has 3 channels of uint8, the model takes 4' in (
        capsys.readouterr().err
    )
    found = table(tmp_path)
    bgra = resized(np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]))
    with torch.no_grad():
        scores = model(torch.from_numpy(bgra).permute(2, 0, 1)[None].float()).softmax(1)
    for i in range(3):
        assert found['rgba.png', i] == pytest.approx(float(scores[0, i]), abs=1e-4)
    with Image.open(tmp_path / 'out/vis/rgba.jpg') as picture:
        assert picture.mode == 'RGB'
    spec = f'{tmp_path / "c.py"}={tmp_path / "m.pth"}'
    out = ['--out', str(tmp_path / 'e.png'), '--device', 'cpu']
    assert main(['explain', str(image), '--models', spec, *out]) == 1
    assert 'the model takes images with 4 channels, got 3' in capsys.readouterr().err


def test_a_classifier_of_bgr_images(tmp_path):
    cfg = classifier(LINEAR, mean=[10.0, 20, 30], std=[1.0, 2, 4], to_rgb=False)
    write(cfg, tmp_path)
    subject = load_subject(f'{tmp_path / "c.py"}={tmp_path / "m.pth"}')
    red = np.full((9, 9, 3), (250, 60, 8), np.uint8)
    expected = [(8 - 10) / 1, (60 - 20) / 2, (250 - 30) / 4]
    assert subject.prepare(red).tensor[0, :, 3, 3].tolist() == pytest.approx(expected)


# -- other heads of classifiers ---------------------------------------------------


def test_classes_that_do_not_exclude_each_other(image, tmp_path):
    head = dict(type='MultiLabelLinearClsHead', num_classes=3)
    model = write(classifier(head, mean=[0.0] * 3, std=[255.0] * 3), tmp_path)[2]
    assert predict(tmp_path, image) == 0
    bgr = resized(np.ascontiguousarray(noise(3)[..., ::-1]))
    with torch.no_grad():
        logits = model(torch.from_numpy(bgr).permute(2, 0, 1)[None].float() / 255)[0]
    found = table(tmp_path)
    for i in range(3):
        assert found['rgb.png', i] == pytest.approx(
            float(logits[i].sigmoid()), abs=1e-4
        )
    from pytorch_grad_cam import GradCAM

    subject = load_subject(f'{tmp_path / "c.py"}={tmp_path / "m.pth"}')
    label = explain(subject, noise(3), GradCAM, target=1).label
    assert label.startswith(f'1 {float(logits[1].sigmoid()):.2f}')


def test_a_head_of_several_layers_and_one_without_classes(image, tmp_path):
    for name, head, count in (
        ('a', dict(type='StackedLinearClsHead', num_classes=3, mid_channels=[8]), 3),
        ('b', dict(type='CSRAClsHead', num_classes=3, num_heads=1, lam=0.1), 3),
    ):
        (tmp_path / name).mkdir()
        cfg = classifier(head)
        if name == 'b':
            del cfg['model']['neck']  # it says nowhere how many classes it has
        write(cfg, tmp_path / name)
        assert predict(tmp_path / name, image) == 0
        assert len(table(tmp_path / name)) == count


def test_several_tasks_at_once_are_refused(image, tmp_path, capsys):
    head = dict(type='MultiTaskHead', task_heads=dict(a=LINEAR, b=LINEAR))
    write(classifier(head), tmp_path)
    assert predict(tmp_path, image) == 1
    line = capsys.readouterr().err
    assert 'classifies by several tasks at once; expected one class' in line
    assert line.count('\n') == 1


# -- segmentors -------------------------------------------------------------------


def test_a_segmentor_with_one_output_for_two_classes(image, tmp_path):
    model = write(segmentor(**BINARY), tmp_path)[2]
    assert predict(tmp_path, image) == 0
    bgr = resized(np.ascontiguousarray(noise(3)[..., ::-1]))
    x = torch.from_numpy(bgr).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        logits = model(x)
        large = nn.functional.interpolate(logits, (SIDE, SIDE), mode='bilinear')
        large = nn.functional.interpolate(large, (48, SIDE), mode='bilinear')
    found = np.asarray(Image.open(tmp_path / 'out/maps/rgb.png'))
    expected = (large.sigmoid() > 0.45)[0, 0].numpy()
    assert set(np.unique(found)) == {0, 1}, 'a weak test'
    assert (found == expected).mean() > 0.999
    assert len((tmp_path / 'out/classes.csv').read_text().splitlines()) == 3

    p = logits.sigmoid()
    scores = DenseScores(model)(x)
    assert scores.shape == (1, 2)
    for i, q in enumerate((1 - p, p)):
        there = (p > 0.45) == bool(i)
        assert float(scores[0, i]) == pytest.approx(float(q[there].sum()), rel=1e-4)


def test_a_cascade_of_segmentation_heads(tmp_path):
    cfg = segmentor()
    first = cfg['model']['decode_head']
    second = dict(
        type='OCRHead',
        in_channels=48,
        in_index=3,
        channels=16,
        ocr_channels=8,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    )
    heads = dict(type='CascadeEncoderDecoder', decode_head=[first, second])
    cfg['model'] |= heads | dict(num_stages=2)
    model = build(cfg)
    from mmseg.structures import SegDataSample

    x = torch.randn(1, 3, SIDE, SIDE)
    sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(48, SIDE)))
    scores = DenseScores(model, [sample])(x)
    with torch.no_grad():
        p = model.encode_decode(x, [sample.metainfo]).softmax(1)[0]
    for i in range(3):
        expected = p[i][p.argmax(0) == i].sum()
        assert float(scores[0, i].detach()) == pytest.approx(float(expected), rel=1e-4)
    path = tmp_path / 'c.py'
    Config(cfg).dump(path)
    parts, _ = count_target(str(path), (SIDE, SIDE))
    assert parts['decode_head'].macs > 0


# -- detectors --------------------------------------------------------------------

SMALL_DETR = dict(encoder=dict(num_layers=1), decoder=dict(num_layers=1))
DETECTORS = {
    'rpn': lambda: detector('rpn/rpn_r50_fpn_1x_coco.py'),
    'tood': lambda: detector('tood/tood_r50_fpn_1x_coco.py'),
    'deformable_detr': lambda: detector(
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', **SMALL_DETR
    ),
    'dyhead': lambda: detector('dyhead/atss_r50_fpn_dyhead_1x_coco.py'),
    'sparse_rcnn': lambda: detector('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'),
    'yolox': lambda: detector('yolox/yolox_s_8xb8-300e_coco.py'),
}
PARTS = {
    'deformable_detr': {'backbone', 'neck', 'encoder', 'decoder', 'bbox_head'},
    'sparse_rcnn': {'backbone', 'neck', 'roi_head.bbox_head'},
}


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors(name, image, tmp_path):
    from mmdet.structures import DetDataSample

    cfg = DETECTORS[name]()
    model = write(cfg, tmp_path)[2]
    assert predict(tmp_path, image) == 0
    results = json.loads((tmp_path / 'out/detections.json').read_text())
    classes = json.loads((tmp_path / 'out/images.json').read_text())['categories']
    assert len(classes) == (1 if name == 'rpn' else 80) and results

    parts, size = count_target(str(tmp_path / 'c.py'), (SIDE, SIDE))
    assert size == (SIDE, SIDE)
    for part in PARTS.get(name, {'backbone', 'neck', 'bbox_head'} & parts.keys()):
        assert parts[part].macs > 0, part
    assert all(p.requires_grad for p in model.parameters())

    shapes = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))
    shapes |= dict(batch_input_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=shapes)]
    x = torch.randn(1, 3, SIDE, SIDE)
    scores = DenseScores(model, samples, len(classes))(x)
    assert scores.shape == (1, len(classes)) and scores.requires_grad
    with torch.no_grad():
        if name == 'tood':  # its head returns probabilities
            levels = model.bbox_head(model.extract_feat(x))[0]
            p = torch.cat([level.flatten(2) for level in levels], 2)[0]
        elif name in ('deformable_detr', 'sparse_rcnn', 'yolox'):
            found = model.predict(x, samples, rescale=False)[0].pred_instances
            p = found.scores * nn.functional.one_hot(found.labels, len(classes)).T
        else:
            levels = model.bbox_head(model.extract_feat(x))[0]
            count = model.bbox_head.cls_out_channels
            levels = [v.unflatten(1, (-1, count)).transpose(1, 2) for v in levels]
            p = torch.cat([v.flatten(2) for v in levels], 2)[0].sigmoid()
    expected = (p * (p >= CONFIDENT)).sum(1)
    torch.testing.assert_close(scores[0].detach(), expected, atol=1e-3, rtol=1e-3)


MASK2FORMER = 'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'


def test_a_detector_that_returns_panoptic_maps_too(image, tmp_path, capsys):
    """Its instances are what is written; without them a line says so."""
    cfg = detector(MASK2FORMER, levels=4, panoptic_head=dict(num_queries=8))
    head = cfg['model']['panoptic_head']
    head['in_channels'] = list(ARCH['dims'])
    head['transformer_decoder']['num_layers'] = 3
    head['pixel_decoder']['encoder']['num_layers'] = 1
    cfg['model']['test_cfg']['max_per_image'] = 5
    write(cfg, tmp_path)
    assert predict(tmp_path, image) == 0
    results = json.loads((tmp_path / 'out/detections.json').read_text())
    assert results and all('segmentation' in r for r in results)
    assert count_target(str(tmp_path / 'c.py'), (SIDE, SIDE))[0]['panoptic_head'].macs
    cfg['model']['test_cfg']['instance_on'] = False
    Config(cfg).dump(tmp_path / 'c.py')
    assert predict(tmp_path, image) == 1
    assert 'Mask2Former returns no pred_instances' in capsys.readouterr().err


def test_a_model_that_cannot_be_counted(tmp_path, capsys):
    path = tmp_path / 'c.py'
    Config(detector(MASK2FORMER, levels=3)).dump(path)  # the head wants four maps
    assert main(['flops', str(path), '--shape', '64']) == 1
    line = capsys.readouterr().err
    assert 'cannot be counted: Mask2Former does not run on one image of 64x64' in line
    assert line.count('\n') == 1
    with pytest.raises(UserError, match='does not run on one image'):
        count_target(str(path), (SIDE, SIDE))
