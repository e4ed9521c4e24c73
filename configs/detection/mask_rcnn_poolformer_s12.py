"""Mask R-CNN, PoolFormer-S12, COCO 1x: 37.3 box, 34.6 mask AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/mask_rcnn_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/detection/mask_rcnn_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/mask_rcnn.py',
    '../_base_/models/backbones.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/poolformer_1x.py',
    '../_base_/coco_runtime.py',
]

model = dict(backbone=dict(_base_.pop('backbones').poolformer_s12, drop_path_rate=0.0))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
