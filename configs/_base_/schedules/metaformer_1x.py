"""ConvFormer and CAFormer on COCO, 1x.

There is no official recipe and no published result: sail-sg/metaformer only covers
classification. The settings and their sources:
- AdamW with learning rate 1e-4, batch size 16 (8 GPUs x 2), 1333x800, 12 epochs: the
  Mask R-CNN of MambaOut (2405.07992, section 4.3), by the first author of 2210.13452.
  It uses float16; this uses float32, since a NaN was reported for CAFormer in mixed
  precision (sail-sg/metaformer, issue 20).
- Weight decay 0.05, none on norms and scales: jjwang8/PolyNeXt, whose UPerNet is
  intended to match ConvFormer's and CAFormer's. The scales are those of the shortcuts
  and of StarReLU.
- Steps at 8 and 11, 500 iterations of linear warm-up, no gradient clipping:
  MMDetection's 1x.
- Drop path: the rate of the size's ImageNet-1k recipe (sail-sg/metaformer, scripts).
- The box heads of the cascade: those of Sense-X/UniFormer, for comparison.
"""

_base_ = 'uniformer_1x.py'

optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'scale': dict(decay_mult=0.0)}),
)
