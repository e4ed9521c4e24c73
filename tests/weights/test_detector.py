"""A detector's checkpoint with another backbone implementation loads unconverted."""

import pytest
import torch

from mmmeta.weights import load_backbone, load_checkpoint

DEPTHS, DIMS = (1, 1, 1, 1), (8, 16, 24, 32)
THEIRS = dict(
    type='mmpretrain.PoolFormer',
    arch=dict(layers=list(DEPTHS), embed_dims=list(DIMS), mlp_ratios=[4] * 4),
    out_indices=[0, 2, 4, 6],
    frozen_stages=-1,
)
OURS = dict(type='mmmeta.PoolFormer', arch=dict(depths=DEPTHS, dims=DIMS))


def retinanet(backbone: dict):
    import mmdet.models  # noqa: F401
    import mmpretrain.models  # noqa: F401
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    return MODELS.build(
        ConfigDict(
            type='RetinaNet',
            _scope_='mmdet',
            data_preprocessor=dict(type='DetDataPreprocessor'),
            backbone=backbone,
            neck=dict(
                type='FPN',
                in_channels=list(DIMS),
                out_channels=16,
                start_level=1,
                add_extra_convs='on_input',
                num_outs=5,
            ),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=3,
                in_channels=16,
                stacked_convs=1,
                feat_channels=16,
                anchor_generator=dict(
                    type='AnchorGenerator',
                    octave_base_scale=4,
                    scales_per_octave=3,
                    ratios=[0.5, 1.0, 2.0],
                    strides=[8, 16, 32, 64, 128],
                ),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                loss_cls=dict(type='FocalLoss', use_sigmoid=True),
                loss_bbox=dict(type='L1Loss'),
            ),
            train_cfg=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.4,
                    min_pos_iou=0,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
            ),
            test_cfg=dict(
                nms_pre=100,
                min_bbox_size=0,
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=20,
            ),
        )
    )


def batch() -> dict:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    size = dict(img_shape=(96, 96), ori_shape=(96, 96), pad_shape=(96, 96))
    sample = DetDataSample(metainfo=dict(size, scale_factor=(1.0, 1.0), img_id=0))
    boxes = torch.tensor([[8.0, 8, 48, 56], [40, 30, 90, 90]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    image = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """MMPretrain's PoolFormer in a RetinaNet after a few steps, and its file."""
    from mmengine.optim import OptimWrapper
    from mmengine.runner.checkpoint import save_checkpoint

    torch.manual_seed(0)
    model = retinanet(THEIRS)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(3):
        model.train_step(batch(), OptimWrapper(optimizer))
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith('backbone.network.4') for k in moved)
    path = tmp_path_factory.mktemp('detector') / 'epoch_1.pth'
    content = dict(meta=dict(epoch=1), state_dict=model.state_dict())
    save_checkpoint(content, str(path))
    model.eval()
    model.backbone.eval()
    return model, path


def same_detections(one, other) -> bool:
    data = batch()
    with torch.no_grad():
        a = one.test_step(data)[0].pred_instances
        b = other.test_step(data)[0].pred_instances
    assert len(a) == 20
    return (
        torch.equal(a.labels, b.labels)
        and torch.allclose(a.scores, b.scores, atol=1e-5)
        and torch.allclose(a.bboxes, b.bboxes, atol=1e-3)
    )


def test_through_mmengine(trained):
    from mmengine.runner.checkpoint import load_checkpoint as mmengine_load

    theirs, path = trained
    ours = retinanet(OURS).eval()
    assert not same_detections(theirs, ours)
    mmengine_load(ours, str(path), strict=True)
    assert same_detections(theirs, ours)


def test_through_load_checkpoint(trained):
    theirs, path = trained
    ours = retinanet(OURS).eval()
    report = load_checkpoint(ours, path)
    assert report.loaded == len(theirs.state_dict())
    assert (report.kept, report.left) == ((), ())
    assert same_detections(theirs, ours)


def test_its_backbone_alone(trained):
    theirs, path = trained
    backbone = retinanet(OURS).backbone
    report = load_backbone(backbone, path)
    assert torch.equal(backbone.norm3.weight, theirs.backbone.norm6.weight)
    assert {name.split('.')[0] for name in report.left} == {'neck', 'bbox_head'}


def test_and_back(trained):
    from mmmeta.weights.state import parse, to_layout

    theirs, path = trained
    ours = retinanet(OURS).eval()
    load_checkpoint(ours, path)
    again = retinanet(THEIRS)
    again.load_state_dict(to_layout(parse(ours.state_dict()), 'mmpretrain'))
    again.eval()
    again.backbone.eval()
    assert same_detections(again, theirs)
