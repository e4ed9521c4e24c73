"""MMEngine and the three libraries on it: MMDetection, MMSegmentation, MMPretrain.

`libraries` is the table of what differs between the three, `config` reads and changes
their configs, `launch` runs a training or a test of one, `predictor` a trained model on
images, with the names that `classes` finds; `hooks` are MMEngine's. `mmcv_ops` stands
in for mmcv's compiled operators; `allocator` is glibc's.
"""
