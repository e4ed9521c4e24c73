"""RetinaNet, PoolFormer-S36, COCO 1x: 39.5 box AP (sail-sg/poolformer).

8 GPUs: bash tools/dist_train.sh configs/detection/retinanet_poolformer_s36.py 8
1 GPU:  python tools/train.py configs/detection/retinanet_poolformer_s36.py \
            --auto-scale-lr
"""

_base_ = '../_base_/retinanet_poolformer_coco_1x.py'

model = dict(
    backbone=dict(
        arch='s36',
        init_cfg=dict(checkpoint='mmmeta://poolformer_s36.sail_in1k'),
    )
)
