"""CAFormer fine-tuned at 384x384: what the four sizes share.

Source: sail-sg/metaformer, scripts/caformer/finetune_*_384.sh (2210.13452).
ConvFormer's recipe with LAMB and twice the learning rate.
"""

_base_ = 'convformer_in1k_384.py'

load_from = 'mmmeta://caformer_s18.sail_in1k'

model = dict(backbone=dict(type='mmmeta.CAFormer'))

optim_wrapper = dict(optimizer=dict(type='Lamb', lr=1e-4))
