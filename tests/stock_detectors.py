"""Stock detectors with synthetic weights on a synthetic image.

python tests/stock_detectors.py     (needs a compiled mmcv)

writes tests/data/mmcv/detectors.json; it was recorded with a compiled mmcv 2.3.6,
MMDetection 3.5.1 and torch 2.13 on a CPU.
"""

import json
import runpy
from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

DATA = Path(__file__).resolve().parent / 'data'
RECORDED = DATA / 'mmcv/detectors.json'
CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
CASES = {
    'mask_rcnn_dconv': ('dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py', 'nms'),
    'mask_rcnn_mdconv': (
        'dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
        'soft_nms',
    ),
}
SIZE = 96, 128  # height, width
SHOWN = 20  # detections compared


def run(name: str) -> dict:
    """Return a detector's detections, losses and some norms of its gradients."""
    path, nms = CASES[name]
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, nms=dict(type=nms, iou_threshold=0.5))
    model = MODELS.build(cfg.model).eval()
    fill = runpy.run_path(str(DATA / 'golden/fill.py'))['fill']
    state = model.state_dict()
    model.load_state_dict(
        {key: torch.from_numpy(fill(key, value.shape)) for key, value in state.items()}
    )
    shapes = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE)
    sample = DetDataSample(
        metainfo=dict(shapes, scale_factor=(1.0, 1.0), batch_input_shape=SIZE)
    )
    images = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 3, *SIZE)))
    images = images.float()
    with torch.no_grad():
        found = model.predict(images, [sample], rescale=False)[0].pred_instances
    boxes = torch.tensor([[10.0, 15, 60, 85], [60.0, 20, 120, 90], [30.0, 30, 50, 60]])
    masks = np.zeros((len(boxes), *SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 5, 17]), masks=BitmapMasks(masks, *SIZE)
    )
    torch.manual_seed(0)
    losses = {
        key: sum(value) if isinstance(value, list) else value
        for key, value in model.loss(images, [sample]).items()
    }
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    return dict(
        count=len(found),
        boxes=found.bboxes[:SHOWN].tolist(),
        scores=found.scores[:SHOWN].tolist(),
        labels=found.labels[:SHOWN].tolist(),
        mask_pixels=[int(mask.sum()) for mask in found.masks[:SHOWN]],
        losses={key: float(value.detach()) for key, value in losses.items()},
        gradients={
            name: float(parameter.grad.norm())
            for name, parameter in model.named_parameters()
            if name.endswith(('layer3.0.conv2.weight', 'conv_offset.weight'))
        },
    )


if __name__ == '__main__':
    import mmcv._ext

    assert not hasattr(mmcv._ext, 'READS_STRIDES'), 'this is not a compiled mmcv'
    RECORDED.write_text(json.dumps({name: run(name) for name in CASES}) + '\n')
