"""MMEngine and the three libraries on it: MMDetection, MMSegmentation, MMPretrain.

`libraries` is the table of differences between the three, `config` reads and changes
their configs, `launch` runs training and testing, `predictor` runs trained models on
images, with class names from `classes`; `hooks` has hooks for MMEngine. `mmcv_ops`
replaces mmcv's compiled operators; `allocator` tunes glibc's allocator.
"""
