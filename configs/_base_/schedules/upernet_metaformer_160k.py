"""UPerNet with ConvFormer, CAFormer or PoolFormer on ADE20K, 160k: shared settings.

sail-sg published no recipe. Source: PolyNeXt (jjwang8/PolyNeXt, segmentation/configs),
whose recipe for a backbone of S18's size is said to match that of ConvFormer and
CAFormer: AdamW with learning rate 1e-4, ten times that in the heads, weight decay 0.05
except on norms and scales, drop path 0.3, sliding-window testing. Its drop path is for
S18; no other is known for S36 and M36. MambaOut, by MetaFormer's first author, also
uses batch size 16, learning rate 1e-4 and 160,000 iterations.
"""

_base_ = 'upernet_160k.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # The keys match parts of names, as in the reference: 'head' matches decode_head and
    # auxiliary_head; 'scale' matches the scales of StarReLU and of the shortcuts, and
    # layer scale. StarReLU's bias and the heads' norms (named bn) have weight decay.
    paramwise_cfg=dict(
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'scale': dict(decay_mult=0.0),
            'head': dict(lr_mult=10.0),
        }
    ),
)
