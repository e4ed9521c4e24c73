"""Cascade Mask R-CNN, ConvFormer-S36, COCO 1x: no result is published.

The recipe is ours; configs/_base_/schedules/metaformer_1x.py lists its sources.
Batch size 16: on 8 GPUs 2 each.
8 GPUs: bash tools/dist_train.sh configs/detection/cascade_mask_rcnn_convformer_s36.py 8
1 GPU:  python tools/train.py configs/detection/cascade_mask_rcnn_convformer_s36.py \
            --auto-scale-lr
"""

_base_ = ['cascade_mask_rcnn_convformer_s18.py', '../_base_/models/backbones.py']

model = dict(backbone=dict(_base_.pop('backbones').convformer_s36, drop_path_rate=0.3))
