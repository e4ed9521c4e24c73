"""RetinaNet, PoolFormer-S12, on the embedded easy shapes: what `make demo` trains.

From random weights, in minutes, on a CPU:
    python -m mmmeta.datasets --root data/shapes --easy
    python tools/train.py configs/detection/retinanet_poolformer_s12_easy_shapes.py
"""

_base_ = 'retinanet_poolformer_s12_shapes.py'

scale = (96, 96)  # pixels; easy shapes then measure 16 to 80

model = dict(
    # With the reference's small initial weights, some seeds learn to distinguish the
    # classes only after hundreds of iterations.
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Conv2d',
            mode='fan_in',
            nonlinearity='relu',
        )
    ),
    # No shape is large enough for the anchors of a fourth level.
    neck=dict(num_outs=3),
    bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32])),
)

train_pipeline, test_pipeline = (
    [dict(step, scale=scale) if step.type == 'Resize' else step for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_begin=3, val_interval=1)
param_scheduler = [
    dict(step, end=max_epochs, T_max=max_epochs)
    if step.type == 'CosineAnnealingLR'
    else step
    for step in _base_.param_scheduler
]

default_hooks = dict(
    time_left=dict(
        type='mmmeta.TimeLeftHook', short_form='make demo DEMO_ARGS=--short'
    ),
    # `make demo` requires an AP50 of 0.5; the rest is a margin.
    early_stopping=dict(
        type='EarlyStoppingHook',
        monitor='coco/bbox_mAP_50',
        stopping_threshold=0.65,
        patience=max_epochs,  # do not stop for any other reason
    ),
)
