"""ConvFormer fine-tuned at 384x384; also the base of CAFormer's.

Source: sail-sg/metaformer, scripts/convformer/finetune_*_384.sh (2210.13452). From
the weights trained at 224x224: 30 epochs at a constant learning rate, batch size 1024,
no mixup or cutmix, an average of the weights with decay 0.9999.
"""

_base_ = 'imagenet_300e.py'

optim_wrapper = dict(optimizer=dict(lr=5e-5))
param_scheduler = None
train_cfg = dict(max_epochs=30)

# interval: iterations per update of the weights, if gradients are accumulated.
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, interval=1, priority='ABOVE_NORMAL')
]
