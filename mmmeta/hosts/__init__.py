"""What MMEngine, MMCV, MMDetection, MMSegmentation and MMPretrain need of mmmeta."""
