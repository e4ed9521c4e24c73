"""A file finds what the host library's inferencer finds, at any size of image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from odd_models import BINARY, LINEAR, classifier, detector, segmentor, write

from mmmeta.export.files import (
    convert_to_openvino,
    metadata_of,
    trace,
    write_onnx,
    write_pt2,
)
from mmmeta.export.model import whole_model
from mmmeta.hosts.predictor import Predictor, build_predictor
from mmmeta.runtime import Detections, LabelMap, Probabilities, open_model
from mmmeta.runtime.model import to_result

SIZES = (96, 80), (64, 64), (50, 117)  # of the images, height and width
BOXES = dict(rcnn=dict(score_thr=0.0, max_per_img=20), rpn=dict(max_per_img=50))
NORM = dict(type='BN', requires_grad=True)


def narrow(cfg: dict) -> dict:
    """Make the neck and the heads of a stock detector small."""

    def shrink(node) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if value == 256 and ('channels' in key or key == 'out_channels'):
                    node[key] = 32
                elif value == 1024:
                    node[key] = 64
                else:
                    shrink(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                shrink(value)

    shrink(cfg)
    return cfg


def upernet(**test_cfg) -> dict:
    cfg = segmentor(num_classes=3)
    cfg['model']['test_cfg'] = test_cfg or dict(mode='whole')
    head = dict(type='UPerHead', in_channels=[16, 24, 32, 48], in_index=[0, 1, 2, 3])
    head |= dict(pool_scales=(1, 2, 3, 6), channels=16, num_classes=5, norm_cfg=NORM)
    cfg['model']['decode_head'] = head
    return cfg


def semantic_fpn() -> dict:
    cfg = segmentor(num_classes=3)
    cfg['model']['neck'] = dict(
        type='FPN', in_channels=[16, 24, 32, 48], out_channels=16, num_outs=4
    )
    head = dict(type='FPNHead', in_channels=[16] * 4, in_index=[0, 1, 2, 3])
    head |= dict(feature_strides=[4, 8, 16, 32], channels=16, num_classes=5)
    cfg['model']['decode_head'] = dict(head, norm_cfg=NORM)
    return cfg


def stock(path: str, levels: int = 4, **model) -> dict:
    return narrow(detector(path, levels, **model))


CASES = {
    'classifier': lambda: classifier(LINEAR),
    'RetinaNet': lambda: stock(
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        test_cfg=dict(score_thr=0.0, max_per_img=20),
    ),
    'FCOS': lambda: stock(
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        bbox_head=dict(norm_cfg=dict(type='GN', num_groups=8)),
        test_cfg=dict(score_thr=0.0, max_per_img=20),
    ),
    'Mask R-CNN': lambda: stock(
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', test_cfg=BOXES
    ),
    'Cascade Mask R-CNN': lambda: stock(
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', test_cfg=BOXES
    ),
    'Semantic FPN': semantic_fpn,
    'UPerNet': upernet,
    'sliding': lambda: upernet(mode='slide', crop_size=(48, 48), stride=(32, 32)),
    'binary': lambda: segmentor(**BINARY | dict(threshold=0.7)),
}
# What is exported; the other cases' operators are among theirs.
EXPORTED = ('classifier', 'Mask R-CNN', 'sliding')
BY_ALL_RUNTIMES = ('classifier', 'Mask R-CNN')


def images() -> list[np.ndarray]:
    """Images with areas of one color, BGR."""
    random = np.random.RandomState(0)
    coarse = [random.randint(0, 256, (h // 8 + 1, w // 8 + 1, 3)) for h, w in SIZES]
    return [
        np.kron(x, np.ones((8, 8, 1)))[:h, :w].astype(np.uint8)
        for x, (h, w) in zip(coarse, SIZES, strict=True)
    ]


def write_same_size(cfg: dict, folder: Path) -> tuple[Path, Path]:
    """Write a model whose pipeline keeps the size, so that no pixel is rounded."""
    cfg = Config(cfg).to_dict()
    for step in cfg['test_dataloader']['dataset']['pipeline']:
        if step['type'] == 'Resize':
            step.pop('scale')
            step.update(scale_factor=1.0)
    return write(cfg, folder)[:2]


@pytest.fixture(params=CASES)
def case(request, tmp_path) -> tuple[str, Predictor, list, list]:
    """The name of a case, its model, and what it finds in some images."""
    config, checkpoint = map(str, write_same_size(CASES[request.param](), tmp_path))
    predictor = build_predictor(config, checkpoint, 'cpu')
    given = images()
    expected = [predictor.result(predictor(image)) for image in given]
    return request.param, predictor, given, expected


def test_files_find_what_the_model_finds(case, tmp_path):
    name, predictor, given, expected = case
    check(expected)
    whole = whole_model(predictor)
    for image, wanted in zip(given, expected, strict=True):
        outputs = run(whole, image)
        compare(wanted, to_result({'task': predictor.task}, outputs, image.shape[:2]))
    if name not in EXPORTED:
        return
    metadata = metadata_of(predictor, whole.outputs, 'c.py', tmp_path / 'm.pth')
    program = trace(whole)
    files = [tmp_path / 'model.onnx']
    if name in BY_ALL_RUNTIMES:
        files += [tmp_path / 'model.xml', tmp_path / 'model.pt2']
        write_pt2(program, files[2], metadata)
    write_onnx(program, files[0], metadata)
    if name in BY_ALL_RUNTIMES:
        convert_to_openvino(files[0], files[1], metadata)
        # It folds constants: those of a size that shows would make the file larger.
        weights = sum(x.nbytes for x in predictor.model.state_dict().values())
        assert files[1].with_suffix('.bin').stat().st_size < 1.2 * weights
    for file in files:
        model = open_model(file)
        assert model.task == predictor.task
        assert model.classes == predictor.classes
        assert model.palette == predictor.palette
        for image, wanted in zip(given, expected, strict=True):
            compare(wanted, model(image[..., ::-1]))


def run(whole: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = whole(torch.from_numpy(image[..., ::-1].copy()))
    return {k: v.numpy() for k, v in zip(whole.outputs, outputs, strict=True)}


def compare(expected, found) -> None:
    if isinstance(expected, Probabilities):
        np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    elif isinstance(expected, LabelMap):
        assert found.labels.dtype == np.int64
        assert (found.labels != expected.labels).mean() < 1e-3
    else:
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
        assert (found.masks is None) == (expected.masks is None)
        if expected.masks is not None:
            assert (found.masks != expected.masks).mean() < 1e-4


def check(expected: list) -> None:
    """Check that there is something to find."""
    for result in expected:
        if isinstance(result, Detections):
            assert len(result.scores) == 20 and np.ptp(result.scores) > 1e-3
            if result.masks is not None:
                assert 0.005 < result.masks.mean() < 0.9
        elif isinstance(result, LabelMap):
            assert len(np.unique(result.labels)) > 1
