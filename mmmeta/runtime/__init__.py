"""Running exported models, without PyTorch and the host libraries.

    from mmmeta.runtime import open_model

    model = open_model('model.onnx')
    found = model(image)  # uint8 (H, W, 3), RGB

Needs NumPy, and ONNX Runtime or OpenVINO; `mmmeta predict FILE` also needs Pillow and,
for masks, pycocotools: `pip install 'mmmeta-backbones[runtime]'`.
"""

from mmmeta.runtime.model import (
    Detections,
    FileModel,
    LabelMap,
    Probabilities,
    is_exported,
    open_model,
)
from mmmeta.runtime.sessions import read_metadata

__all__ = [
    'Detections',
    'FileModel',
    'LabelMap',
    'Probabilities',
    'is_exported',
    'open_model',
    'read_metadata',
]
