"""Every kind of block is exported once and then takes any batch and image size."""

import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS

from mmmeta.models import FAMILIES

# The other families' blocks are RandFormer's with PoolFormer's mixer.
ALIKE = ('IdentityFormer', 'PoolFormerV2')
CASES = [(f.__name__, {}) for f in FAMILIES if f.__name__ not in ALIKE] + [
    ('RandFormer', dict(resize='resample')),
    ('UniFormer', dict(attention='window', window_size=3)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('family', 'options'), CASES, ids=lambda v: v if isinstance(v, str) else '-'.join(v)
)
def test_export(family, options, tmp_path):
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 64))
    if 'resize' in options:
        mixers = [dict(type='Identity')] * 2
        mixers += [dict(type='RandomMixing', size=s, **options) for s in (14, 7)]
        options = dict(token_mixer=mixers)
    model = MODELS.build(dict(type=f'mmmeta.{family}', arch=arch, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    images = torch.randn(2, 3, 256, 320)
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},)
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    file = tmp_path / 'model.onnx'
    torch.onnx.export(program, f=file, input_names=['images'], verbose=False)
    session = onnxruntime.InferenceSession(file)
    # Sizes that a window divides, and those with only one window, are separate
    # programs; ONNX does not distinguish them.
    for shape in ((2, 3, 256, 320), (1, 3, 256, 461), (3, 3, 500, 520)):
        images = torch.randn(shape)
        with torch.no_grad():
            plain = model(images)
            exported = program.module()(images)
        found = session.run(None, {'images': images.numpy()})
        for a, b, c in zip(plain, exported, found, strict=True):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(torch.from_numpy(c), a, atol=1e-4, rtol=1e-3)
