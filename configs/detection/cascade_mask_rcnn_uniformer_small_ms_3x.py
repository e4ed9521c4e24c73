"""Cascade Mask R-CNN, UniFormer-S, COCO 3x: 52.1 box, 45.2 mask AP (Sense-X/UniFormer).

Multi-scale training. Hybrid attention, windows of 14; trained in mixed precision.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh \
            configs/detection/cascade_mask_rcnn_uniformer_small_ms_3x.py 8 --amp
1 GPU:  python tools/train.py \
            configs/detection/cascade_mask_rcnn_uniformer_small_ms_3x.py \
            --amp --auto-scale-lr
"""

_base_ = [
    '../_base_/cascade_mask_rcnn_uniformer.py',
    '../_base_/coco_instance_ms_3x.py',
]

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,
        with_cp=[0, 0, 8, 0],
        init_cfg=dict(checkpoint='mmmeta://uniformer_small.sensex_in1k'),
    )
)
