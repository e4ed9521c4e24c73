"""RetinaNet, PoolFormer-S24, COCO 1x: 38.9 box AP (sail-sg/poolformer).

Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/retinanet_poolformer_s24.py 8
1 GPU:  python tools/train.py configs/detection/retinanet_poolformer_s24.py \
            --auto-scale-lr
"""

_base_ = ['retinanet_poolformer_s12.py', '../_base_/models/backbones.py']

model = dict(backbone=_base_.pop('backbones').poolformer_s24)
