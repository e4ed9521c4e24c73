"""Test pipelines as part of a model give what the libraries' own pipelines give."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models import DetDataPreprocessor
from mmengine.registry import init_default_scope
from mmpretrain.models.utils import ClsDataPreprocessor
from mmseg.models import SegDataPreProcessor

from mmmeta.errors import UserError
from mmmeta.export.prepare import build_prepare, half_even
from mmmeta.export.select import nms_top, roi_align_levels

NUMBERS = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])
BICUBIC = dict(backend='pillow', interpolation='bicubic')
SIZES = (97, 130), (200, 61), (64, 64), (333, 500)

PIPELINES = {
    'keep_ratio': [dict(type='mmdet.Resize', scale=(133, 80), keep_ratio=True)],
    'scale': [dict(type='mmdet.Resize', scale=(75, 50))],
    'scale_factor': [dict(type='mmcv.Resize', scale_factor=0.6, keep_ratio=True)],
    'multiple': [
        dict(type='mmcv.Resize', scale=(200, 50), keep_ratio=True),
        dict(type='mmseg.ResizeToMultiple', size_divisor=32),
    ],
    'edge': [
        dict(type='mmpretrain.ResizeEdge', scale=70, edge='short', **BICUBIC),
        dict(type='mmpretrain.CenterCrop', crop_size=61),
    ],
    'long': [dict(type='mmpretrain.ResizeEdge', scale=70, edge='long')],
    'pad': [
        dict(type='mmdet.Resize', scale=(133, 80), keep_ratio=True),
        dict(type='mmdet.Pad', size_divisor=48, pad_val=dict(img=(9, 9, 9))),
    ],
}


def picture(size: tuple[int, int]) -> np.ndarray:
    """A smooth picture with edges, BGR."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / 9 + c) + np.cos(y / (5 + c)) + (x > y) for c in range(3)]
    return (np.stack(waves, -1) * 50 + 100).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_steps(name, size):
    init_default_scope('mmdet')
    image = picture(size)
    expected = Compose(PIPELINES[name])(dict(img=image, img_shape=size, ori_shape=size))
    preprocessor = DetDataPreprocessor(bgr_to_rgb=True)
    prepare = build_prepare(PIPELINES[name], preprocessor)
    batch, found_size = prepare(torch.from_numpy(image[None, ..., ::-1].copy()))
    wanted = torch.from_numpy(expected['img'][..., ::-1].copy()).permute(2, 0, 1)
    assert batch.shape[1:] == wanted.shape
    assert found_size == tuple(wanted.shape[1:])
    difference = (batch[0] - wanted.float()).abs()
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(
    'preprocessor',
    [
        DetDataPreprocessor(**NUMBERS, bgr_to_rgb=True, pad_size_divisor=32),
        DetDataPreprocessor(**NUMBERS, pad_size_divisor=32, pad_value=7),
        SegDataPreProcessor(**NUMBERS, bgr_to_rgb=True),
        SegDataPreProcessor(
            **NUMBERS, bgr_to_rgb=True, pad_val=5, test_cfg=dict(size_divisor=48)
        ),
        SegDataPreProcessor(bgr_to_rgb=True, test_cfg=dict(size=(90, 99))),
        ClsDataPreprocessor(**NUMBERS, to_rgb=True),
    ],
    ids=lambda p: type(p).__name__,
)
def test_preprocessors(preprocessor):
    image = picture((70, 85))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    given = dict(inputs=[tensor])
    if isinstance(preprocessor, SegDataPreProcessor):
        from mmseg.structures import SegDataSample

        given['data_samples'] = [SegDataSample()]
    expected = preprocessor(given)['inputs']
    prepare = build_prepare([], preprocessor)
    found, size = prepare(torch.from_numpy(image[None, ..., ::-1].copy()))
    assert size == (70, 85)
    torch.testing.assert_close(found, expected)


def test_half_the_size_is_exact():
    image = picture((100, 150))
    step = dict(type='mmdet.Resize', scale=(75, 50))
    prepare = build_prepare([step], DetDataPreprocessor(bgr_to_rgb=True))
    batch, _ = prepare(torch.from_numpy(image[None, ..., ::-1].copy()))
    expected = Compose([step])(dict(img=image, img_shape=image.shape[:2]))['img']
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0), expected[..., ::-1])


def test_halves_are_rounded_like_pythons():
    assert [half_even(n) for n in range(40)] == [round(n / 2) for n in range(40)]


@pytest.mark.parametrize(
    ('step', 'message'),
    [
        (
            dict(type='mmdet.RandomFlip', prob=1.0),
            'step RandomFlip .* known are Resize',
        ),
        (dict(type='Resize', scale=9, interpolation='area'), "interpolation='area'"),
        (
            dict(type='Resize', scale=9, interpolation='nearest', backend='pillow'),
            'pillow',
        ),
        (dict(type='LoadImageFromFile', color_type='unchanged'), 'three channels'),
        (dict(type='CenterCrop', crop_size=9, auto_pad=True), 'auto_pad'),
    ],
)
def test_what_is_not_known_is_named(step, message):
    with pytest.raises(UserError, match=message):
        build_prepare([step], DetDataPreprocessor())


def test_selected_boxes_are_mmcvs():
    from mmcv.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 20], 1)
    scores = torch.rand(300, generator=generator)
    groups = torch.randint(3, (300,), generator=generator)
    _, expected = batched_nms(
        boxes, scores, groups, dict(type='nms', iou_threshold=0.4)
    )
    found = nms_top(boxes, scores, groups, 0.4, 200)
    assert 20 < len(expected) < 200
    assert found[: len(expected)].tolist() == expected.tolist()
    assert (found[len(expected) :] == -1).all()
    assert nms_top(boxes, scores, groups, 0.4, 9).tolist() == expected[:9].tolist()
    assert (nms_top(boxes, scores * 0 - 1, groups, 0.4, 9) == -1).all()
    assert (nms_top(boxes[:0], scores[:0], groups[:0], 0.4, 9) == -1).all()


def test_regions_come_from_the_map_of_their_level():
    from mmcv.ops import RoIAlign

    maps = [torch.randn(1, 4, 32, 32), torch.randn(1, 4, 16, 16)]
    boxes = torch.tensor([[1.0, 2, 30, 40], [5.5, 5, 90, 100], [0.0, 0, 0, 0]])
    levels = torch.tensor([0, 1, 0])
    found = roi_align_levels(maps, boxes, levels, 7, (1 / 4, 1 / 8), 0)
    rois = torch.cat([torch.zeros(3, 1), boxes], 1)
    for i, level in enumerate(levels.tolist()):
        align = RoIAlign((7, 7), 1 / (4, 8)[level], 0, aligned=True)
        torch.testing.assert_close(found[i], align(maps[level], rois[i : i + 1])[0])


def test_boxes_without_area_have_regions_of_zeros_in_openvino(tmp_path):
    import openvino

    class Regions(torch.nn.Module):
        def forward(self, x, boxes):
            levels = torch.zeros(2, dtype=torch.int64)
            return roi_align_levels([x], boxes, levels, 7, (1 / 4,), 0)

    given = torch.randn(1, 4, 32, 32), torch.tensor([[1.0, 2, 30, 40], [0.0, 0, 0, 0]])
    program = torch.export.export(Regions(), given)
    torch.onnx.export(program, verbose=False).save(tmp_path / 'regions.onnx')
    config = {'INFERENCE_PRECISION_HINT': 'f32'}
    run = openvino.Core().compile_model(tmp_path / 'regions.onnx', 'CPU', config)
    found = torch.from_numpy(run([x.numpy() for x in given])[0])
    torch.testing.assert_close(found, Regions()(*given), atol=1e-5, rtol=1e-5)
    assert not found[1].any()
