"""UniFormer-B (layer scale), ImageNet-1k at 224x224: 83.9 % top-1 (Sense-X/UniFormer).

Batch size 1024: on 8 GPUs 128 each.
8 GPUs: bash tools/dist_train.sh configs/classification/uniformer_base_ls.py 8
1 GPU:  python tools/train.py configs/classification/uniformer_base_ls.py \
            --cfg-options optim_wrapper.accumulative_counts=8
"""

_base_ = 'uniformer_base.py'

model = dict(backbone=dict(arch='base_ls'))
