"""RetinaNet, PoolFormer-S12, COCO 1x: 36.2 box AP (sail-sg/poolformer).

8 GPUs: bash tools/dist_train.sh configs/detection/retinanet_poolformer_s12.py 8
1 GPU:  python tools/train.py configs/detection/retinanet_poolformer_s12.py \
            --auto-scale-lr
"""

_base_ = '../_base_/retinanet_poolformer_coco_1x.py'
