"""ConvFormer fine-tuned at 384x384: what the four sizes share, and CAFormer with them.

Source: sail-sg/metaformer, scripts/convformer/finetune_*_384.sh (2210.13452). From
the weights trained at 224x224: 30 epochs at a constant learning rate, batch size 1024,
no mixup or cutmix, an average of the weights with decay 0.9999.
"""

_base_ = 'convformer_in1k.py'

# Not init_cfg of the backbone: the classifier's own layers go on from there too. And
# it is read for training only, so that inference and a resumed run download nothing.
load_from = 'mmmeta://convformer_s18.sail_in1k'

model = dict(backbone=dict(drop_path_rate=0.3), neck=dict(dropout=0.4), train_cfg=None)

train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 384
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 384
test_pipeline[2].crop_size = 384
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=1024)

optim_wrapper = dict(optimizer=dict(lr=5e-5))
param_scheduler = None
train_cfg = dict(max_epochs=30)

# interval: iterations per update of the weights, should gradients be accumulated.
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, interval=1, priority='ABOVE_NORMAL')
]
