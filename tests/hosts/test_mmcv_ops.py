"""mmcv's operators built on torchvision, called through mmcv's public functions.

Compared with results of a compiled mmcv (tests/data/mmcv) and, where a compiled mmcv
has no such operator for CPUs, with an explicit formula.
"""

import importlib.util
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import _ext, ops
from stock_detectors import CASES, DATA, RECORDED, run
from torch.autograd import gradcheck


def load_cases():
    path = DATA / 'mmcv/ops_cases.py'
    spec = importlib.util.spec_from_file_location('ops_cases', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPS_CASES = load_cases()
RECORDED_OPS = dict(np.load(DATA / 'mmcv/ops.npz'))


def test_the_stand_in_is_what_is_tested():
    assert _ext.READS_STRIDES
    assert 'torchvision' in ops.get_compiler_version()


def test_every_recorded_result():
    seen = Counter()
    for name, kind, kwargs in OPS_CASES.cases(seed=0):
        for i, value in enumerate(OPS_CASES.run(kind, kwargs)):
            expected = RECORDED_OPS[f'{name}.{i}']
            if value.dtype.kind == 'i':
                np.testing.assert_array_equal(value, expected, err_msg=name)
            else:
                np.testing.assert_allclose(
                    value, expected, atol=1e-5, rtol=1e-4, err_msg=name
                )
            seen[kind] += 1
    assert seen.total() == len(RECORDED_OPS) == 121
    assert len(seen) == 8


@pytest.mark.parametrize('name', CASES)
def test_stock_detectors(name):
    expected, found = json.loads(RECORDED.read_text())[name], run(name)
    assert found['count'] == expected['count'] == 100
    assert found['labels'] == expected['labels']
    np.testing.assert_allclose(found['boxes'], expected['boxes'], atol=1e-2)
    np.testing.assert_allclose(found['scores'], expected['scores'], atol=1e-4)
    np.testing.assert_allclose(found['mask_pixels'], expected['mask_pixels'], atol=2)
    for part in ('losses', 'gradients'):
        assert found[part].keys() == expected[part].keys()
        assert len(found[part]) >= 5
        for key, value in expected[part].items():
            assert math.isclose(found[part][key], value, rel_tol=2e-3), key


def random_boxes(n, size=60.0, dtype=torch.float32):
    corner = torch.rand(n, 2, dtype=dtype) * size
    return torch.cat([corner, corner + torch.rand(n, 2, dtype=dtype) * 20 + 2], 1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_in_other_dtypes(dtype, offset):
    boxes = (random_boxes(80) * 4).round().div(4).to(dtype)  # exact in all of them
    scores = (torch.randperm(80) / 128).to(dtype)
    dets, keep = ops.nms(boxes, scores, 0.3, offset=offset)
    expected = ops.nms(boxes.float(), scores.float(), 0.3, offset=offset)[1]
    assert keep.tolist() == expected.tolist()
    assert dets.dtype == dtype
    assert 10 < len(keep) < 80
    for function in (ops.nms, ops.soft_nms):
        dets, keep = function(boxes[:0], scores[:0], 0.3, offset=offset)
        assert dets.shape == (0, 5) and keep.shape == (0,)


def test_nms_compares_in_float32():
    """7 of 10 pixels in common is not above 0.7, though 0.7 is below 7 / 10."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0.0, 0, 7, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.7)[1].tolist() == [0, 1]
    assert ops.nms(boxes - torch.tensor([0, 0, 1, 1]), scores, 0.7, 1)[1].tolist() == [
        *(0, 1)
    ]
    # Classes are separated by large offsets, where x2 + 1 would lose digits.
    far = torch.tensor([[2.0**23, 0, 2.0**23 + 1, 9], [2.0**23, 0, 2.0**23 + 2, 9]])
    assert ops.nms(far, scores, 0.6, offset=1)[1].tolist() == [0]


def random_rois(n, dtype=torch.float32):
    rois = random_boxes(n, dtype=dtype)
    return torch.cat([torch.randint(2, (n, 1)).to(rois), rois], 1)


@pytest.mark.parametrize('op', ['roi_align', 'roi_pool'])
def test_regions_of_maps_in_any_memory_and_dtype(op):
    x, rois = torch.randn(2, 6, 20, 24), random_rois(9)
    expected = getattr(ops, op)(x, rois, (3, 4), 0.25)
    assert expected.std() > 0.1
    layout = torch.channels_last
    for y in (x.contiguous(memory_format=layout), x.transpose(2, 3).mT):
        assert torch.equal(getattr(ops, op)(y, rois, (3, 4), 0.25), expected)
    for dtype in (torch.float16, torch.bfloat16):
        found = getattr(ops, op)(x.to(dtype), rois, (3, 4), 0.25)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.parametrize('inference', [False, True])
def test_regions_of_large_maps_are_cut_in_several_threads(inference, monkeypatch):
    x, rois = torch.randn(2, 80, 90, 100), random_rois(70)
    rois[:, 1:] *= 4
    sizes = dict(aligned_height=14, aligned_width=14, spatial_scale=0.25)
    options = dict(sizes, sampling_ratio=0, pool_mode=1, aligned=True)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, 'get_num_threads', lambda n=threads: n)
        with torch.inference_mode(inference):
            output, grad, none = x.new_zeros(70, 80, 14, 14), x * 0, x.new_zeros(0)
            _ext.roi_align_forward(x, rois, output, none, none, **options)
            _ext.roi_align_backward(output, rois, none, none, grad, **options)
        results.append((output.clone(), grad.clone()))
    assert output.numel() > _ext.MANY and x.numel() > _ext.MANY
    torch.testing.assert_close(*results)
    assert results[0][0].std() > 0.1 and results[0][1].std() > 0.1


def test_roi_pool_by_its_definition():
    x = torch.randn(2, 3, 14, 17, dtype=torch.float64)
    rois = random_rois(8, torch.float64)
    rois[0, 1:] = torch.tensor([-30.0, -30, 5, 90])  # outside, in part
    rois[1, 1:] = torch.tensor([90.0, 90, 99, 99])  # outside
    rois[2, 1:] = torch.tensor([23.0, 20, 21.0, 40])  # malformed
    scale, (height, width) = 0.25, (4, 3)
    found = ops.roi_pool(x, rois, (height, width), scale)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1:
            assert found[k].abs().max() == 0
            continue
        for i in range(height):
            for j in range(width):
                step_y, step_x = (y2 - y1) / height, (x2 - x1) / width
                top = min(max(math.floor(i * step_y + y1), 0), 14)
                left = min(max(math.floor(j * step_x + x1), 0), 17)
                bottom = min(max(math.ceil((i + 1) * step_y + y1), 0), 14)
                right = min(max(math.ceil((j + 1) * step_x + x1), 0), 17)
                part = x[int(image), :, top:bottom, left:right].flatten(1)
                expected = part.amax(1) if part.numel() else part.new_zeros(3)
                assert torch.equal(found[k, :, i, j], expected)
    assert found[1].abs().max() == 0
    assert (found[0] == 0).any() and (found[0] != 0).any()


def test_gradients_of_regions():
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    rois = random_rois(4, torch.float64) / 4
    assert gradcheck(lambda x: ops.roi_align(x, rois, 3, 0.5, 2), x)
    assert gradcheck(lambda x: ops.roi_pool(x, rois, (3, 2), 0.5), x)


@pytest.mark.parametrize('gamma', [2.0, 1.5])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(gamma, weighted):
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 4, 4, 1, 5, 5])  # 5: background
    weight = torch.rand(5, dtype=torch.float64) + 0.5 if weighted else None
    p, is_class = x.sigmoid(), target[:, None] == torch.arange(5)
    pt = torch.where(is_class, p, 1 - p)
    alpha = torch.where(is_class, 0.3, 0.7)
    expected = -alpha * (1 - pt) ** gamma * pt.log()
    if weighted:
        expected = expected * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    found = ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(found, expected)
    assert gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'mean'), x
    )
    extreme = torch.tensor([[200.0, -200.0, 200.0]])
    loss = ops.sigmoid_focal_loss(extreme, torch.tensor([1]), gamma, 0.3, None, 'none')
    assert loss.isfinite().all() and (loss > 10).all()


def test_softmax_focal_loss():
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, -1, 1])
    weight = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    p = x.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    expected = -0.25 * (1 - p) ** 2 * p.log() * weight[target.clamp(min=0)]
    expected = expected * (target >= 0)

    def loss(x, reduction='sum'):
        return ops.softmax_focal_loss(x, target, 2.0, 0.25, weight, reduction)

    torch.testing.assert_close(loss(x, 'none'), expected)
    assert gradcheck(loss, x)


def test_multi_scale_deformable_attention_has_gradients():
    """The operator that mmcv's layer calls on a GPU."""
    shapes = torch.tensor([[4, 5], [2, 3]])
    start = torch.tensor([0, 20])
    value = torch.rand(2, 26, 2, 3, dtype=torch.float64, requires_grad=True)
    places = torch.rand(2, 4, 2, 2, 2, 2, dtype=torch.float64) * 0.8 + 0.1
    weights = torch.rand(2, 4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    function = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    plain = ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch
    places.requires_grad_()
    found = function(value, shapes, start, places, weights, 64)
    torch.testing.assert_close(found, plain(value, shapes, places, weights))
    assert gradcheck(
        lambda v, p, w: function(v, shapes, start, p, w, 64), (value, places, weights)
    )


@pytest.mark.parametrize(('kernel', 'groups', 'up'), [(3, 2, 2), (5, 1, 3), (1, 1, 1)])
def test_carafe(kernel, groups, up):
    # `gradcheck` calls the operator twice for each number in the masks.
    b, c, h, w = (1, 2, 3, 4) if kernel == 5 else (2, 4, 4, 5)
    x = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(b, groups * kernel**2, h * up, w * up, dtype=torch.float64)
    masks.requires_grad_()
    seen = F.unfold(x, kernel, padding=kernel // 2)
    seen = seen.view(b, groups, c // groups, kernel**2, h, w)
    seen = seen.repeat_interleave(up, 4).repeat_interleave(up, 5)
    expected = (seen * masks.view(b, groups, 1, kernel**2, h * up, w * up)).sum(3)
    expected = expected.view(b, c, h * up, w * up)
    for function in (ops.carafe, ops.carafe_naive):
        found = function(x, masks, kernel, groups, up)
        torch.testing.assert_close(found, expected)
    assert gradcheck(lambda x, m: ops.carafe(x, m, kernel, groups, up), (x, masks))
    # The backward pass of `carafe_naive` needs a GPU, so call its operator directly.
    grad = torch.randn_like(expected)
    found = [torch.zeros_like(x), torch.zeros_like(masks)]
    sizes = dict(kernel_size=kernel, group_size=groups, scale_factor=up)
    _ext.carafe_naive_backward(grad, x.detach(), masks.detach(), *found, **sizes)
    torch.testing.assert_close(
        found, [*torch.autograd.grad(expected, (x, masks), grad)]
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """Also if one input has a wider dtype, as under autocast."""

    def check(function, *inputs):
        wide = [x.to(dtype).float().requires_grad_() for x in inputs]
        low = [x.detach().to(dtype).requires_grad_() for x in wide]
        mixed = [low[0], *wide[1:]]
        expected = function(*wide)
        assert expected.std() > 0.1
        grad = torch.randn_like(expected).to(dtype).float()
        grads = torch.autograd.grad(expected, wide, grad)
        for others in (low, mixed):
            found = function(*others)
            assert found.dtype == dtype
            assert torch.equal(found, expected.to(dtype))
            back = torch.autograd.grad(found, others, grad.to(dtype))
            for a, b in zip(back, grads, strict=True):
                torch.testing.assert_close(a.float(), b, atol=0.02, rtol=0.02)

    x, masks = torch.randn(1, 4, 5, 6), torch.rand(1, 2 * 9, 10, 12)
    check(lambda x, m: ops.carafe(x, m, 3, 2, 2), x, masks)
    rois = random_rois(30) / 4
    rois[:, 0] = 0
    check(lambda x: ops.roi_pool(x, rois, 3, 0.5), torch.randn(1, 4, 12, 12))
    shapes, start = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    value = torch.randn(2, 26, 2, 3)
    places, weights = torch.rand(2, 4, 2, 2, 2, 2), torch.rand(2, 4, 2, 2, 2)
    function = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    places = places.to(dtype).float()
    check(
        lambda v, w: function(v, shapes, start, places.to(v.dtype), w, 64),
        *(value, weights),
    )


def test_masked_convolution():
    layer = ops.MaskedConv2d(3, 5, (3, 1), padding=(1, 0))
    x = torch.randn(1, 3, 6, 7)
    mask = torch.rand(1, 6, 7) > 0.5
    with torch.no_grad():
        found, everywhere = layer(x, mask.float()), layer(x)
    torch.testing.assert_close(found, everywhere * mask[:, None])
    with torch.no_grad():
        assert layer(x, torch.zeros(1, 6, 7)).abs().max() == 0


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
@pytest.mark.parametrize('mask_size', [(5, 3), (7, 9)])
def test_psa_mask(psa_type, mask_size):
    h, w = 4, 5
    rows, columns = mask_size
    x = torch.randn(2, rows * columns, h, w, dtype=torch.float64, requires_grad=True)
    layer = ops.PSAMask(psa_type, mask_size)
    expected = x.new_zeros(2, h * w, h, w)
    for y in range(h):
        for z in range(w):
            for i in range(rows):
                for j in range(columns):
                    to = y + i - (rows - 1) // 2, z + j - (columns - 1) // 2
                    if not (0 <= to[0] < h and 0 <= to[1] < w):
                        continue
                    tap = x[:, i * columns + j, y, z].detach()
                    if psa_type == 'collect':
                        expected[:, to[0] * w + to[1], y, z] = tap
                    else:
                        expected[:, y * w + z, to[0], to[1]] = tap
    assert torch.equal(layer(x), expected)
    assert gradcheck(layer, x)


def test_tensors_that_are_handed_are_written_into():
    """Also for views of other tensors, with gradients added up."""
    buffer = torch.full((2, 5, 3, 2, 2), 7.0)
    x, rois, none = torch.randn(2, 3, 9, 9), random_rois(5) / 8, torch.zeros(0)
    sizes = dict(aligned_height=2, aligned_width=2, spatial_scale=1.0)
    options = dict(sizes, sampling_ratio=2, pool_mode=1, aligned=True)
    _ext.roi_align_forward(x, rois, buffer[1], none, none, **options)
    assert torch.equal(buffer[1], ops.roi_align(x, rois, 2, 1.0, 2))
    assert (buffer[0] == 7).all()
    once = torch.zeros_like(x)
    _ext.roi_align_backward(buffer[1], rois, none, none, once, **options)
    twice = once.clone()
    _ext.roi_align_backward(buffer[1], rois, none, none, twice, **options)
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize(
    ('call', 'name'),
    [
        (lambda x, rois: ops.RoIAlign(2, pool_mode='max')(x, rois), 'RoIAlign with'),
        (lambda x, rois: ops.DeformRoIPool(2)(x, rois), 'deform_roi_pool_forward'),
        (lambda x, rois: ops.box_iou_rotated(rois, rois), 'box_iou_rotated'),
    ],
)
def test_what_is_not_there_says_so(call, name):
    text = f'^{name}.* is not among the operators of mmcv that mmmeta provides'
    with pytest.raises(NotImplementedError, match=text) as caught:
        call(torch.ones(1, 1, 4, 4), torch.ones(1, 5))
    assert 'pip install --no-build-isolation' in str(caught.value)
    assert not hasattr(_ext, '__wrapped__')


@pytest.mark.parametrize('operator', ['deform', 'modulated'])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e30])
def test_offsets_that_lead_nowhere_sample_zeros(operator, value):
    """As in mmcv; torchvision's kernel alone crashes at NaN."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 7, requires_grad=True)
    weight = torch.randn(3, 4, 3, 3)
    offset = torch.zeros(1, 18, 6, 7)
    offset[:, 1, 2, 3] = value  # x of the first tap at one position
    offset.requires_grad_()
    if operator == 'deform':
        found = ops.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1)
    else:
        mask = torch.ones(1, 9, 6, 7)
        found = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1)
    expected = F.conv2d(x, weight, padding=1)
    lost = weight[:, :, 0, 0] @ x[0, :, 1, 2]
    difference = (expected - found).detach()
    torch.testing.assert_close(difference[0, :, 2, 3], lost.detach())
    difference[0, :, 2, 3] = 0
    assert difference.abs().max() < 1e-5
    found.sum().backward()
    assert x.grad.isfinite().all() and offset.grad.isfinite().all()


def test_offsets_of_a_larger_map_are_read_from_the_front():
    """mmcv looks at no shape, and DyHead was trained with what it reads."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(3, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 10, 12), torch.rand(2, 9, 10, 12)
    small = [
        t.flatten(1)[:, : t.shape[1] * 30].reshape(2, -1, 5, 6) for t in (offset, mask)
    ]
    tensors = [[offset, mask], small]
    for pair in tensors:
        for t in pair:
            t.requires_grad_()
    found, expected = (
        ops.modulated_deform_conv2d(x, *pair, weight, None, 1, 1, 1) for pair in tensors
    )
    torch.testing.assert_close(found, expected)
    for out in (found, expected):
        out.square().sum().backward()
    for large, little in zip(*tensors, strict=True):
        grad, count = large.grad.flatten(1), little.shape[1] * 30
        torch.testing.assert_close(grad[:, :count], little.grad.flatten(1))
        assert not grad[:, count:].any()
    with pytest.raises(ValueError, match=r'at least the size of its output, \(5, 6\)'):
        few = [t[..., :3] for t in tensors[1]]
        ops.modulated_deform_conv2d(x, *few, weight, None, 1, 1, 1)


@pytest.mark.parametrize('sampling', [0, 2])
def test_regions_that_are_no_numbers(sampling):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 5, 6.0]]).repeat(4, 1)
    rois[1, 1], rois[2, 1:], rois[3, 3] = math.nan, math.nan, math.inf
    found = ops.roi_align(x, rois, (2, 3), 1.0, sampling, 'avg', True)
    expected = ops.roi_align(x, rois[:1], (2, 3), 1.0, sampling, 'avg', True)
    torch.testing.assert_close(found[:1], expected)
    assert found[1:].isnan().all()
    (grad,) = torch.autograd.grad(found[:1].sum() + 0 * found[1:].sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), x)[0])
