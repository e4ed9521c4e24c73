"""RetinaNet, PoolFormer-S12, COCO 1x: 36.2 box AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/retinanet_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/detection/retinanet_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = [
    '../_base_/models/retinanet.py',
    '../_base_/models/backbones.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/poolformer_1x.py',
    '../_base_/coco_runtime.py',
]

model = dict(backbone=dict(_base_.pop('backbones').poolformer_s12, drop_path_rate=0.0))
