"""UPerNet on ADE20K, 160k: what the families share.

Source: Swin's recipe, which Sense-X/UniFormer and PolyNeXt follow. Batch size 16 (8
GPUs x 2), 160,000 iterations, the learning rate falls to 0 in a line after 1500
iterations of warm-up, no gradient clipping, float32. One GPU with the memory for it
trains the same with `--cfg-options train_dataloader.batch_size=16`; with two images on
one GPU and `--auto-scale-lr`, as many iterations see an eighth of the images.
"""

_base_ = 'ade20k.py'

auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
# Both start at once and multiply, as in the reference.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=160000, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=16000))
