"""UPerNet on ADE20K, 160k: settings shared by all families.

Source: Swin's recipe, which Sense-X/UniFormer and PolyNeXt follow. Batch size 16 (8
GPUs x 2), 160,000 iterations, linear decay of the learning rate to 0 after 1500
iterations of warm-up, no gradient clipping, float32. One GPU with enough memory trains
the same way with `--cfg-options train_dataloader.batch_size=16`; with two images on one
GPU and `--auto-scale-lr`, the same number of iterations sees an eighth of the images.
"""

_base_ = 'ade20k.py'

auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
# Both start together and multiply, as in the reference.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=160000, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=16000))
