"""Every kind of block is exported once and then takes any batch and image size."""

import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmmeta.models import FAMILIES
from mmmeta.models.layers import MapLayerNorm, take_means

# The other families' blocks are among these: IdentityFormer's and PoolFormerV2's are
# RandFormer's with other mixers, ConvFormer's are those of CAFormer's first stages.
ALIKE = ('IdentityFormer', 'PoolFormerV2', 'ConvFormer')
# Where a block has several modes, two stages have one each.
OPTIONS = {
    'RandFormer': dict(
        token_mixer=[
            *[dict(type='Identity')] * 2,
            dict(type='RandomMixing', size=14),  # in windows
            dict(type='RandomMixing', size=7, resize='resample'),
        ]
    ),
    # The fourth stage always attends to the whole map.
    'UniFormer': dict(attention='window', window_size=3),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'family', [f.__name__ for f in FAMILIES if f.__name__ not in ALIKE]
)
def test_export(family, tmp_path):
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 64, 64))
    options = OPTIONS.get(family, {})
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


def test_norms_by_means_of_means_are_the_norms():
    torch.manual_seed(0)
    norms = nn.Sequential(MapLayerNorm(8), MapLayerNorm(8, bias=False))
    for parameter in norms.parameters():
        nn.init.normal_(parameter)
    x = 5 + 3 * torch.randn(2, 8, 40, 50)
    expected = norms(x)
    take_means(norms)
    assert not any(isinstance(m, MapLayerNorm) for m in norms)
    torch.testing.assert_close(norms(x), expected, rtol=1e-4, atol=1e-4)
