"""`mmmeta.optimize`: the same outputs, whatever is folded."""

import copy
import functools
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import odd_models
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from models.changes import CHANGES, blocks, build, worst
from torch import nn

import mmmeta
from mmmeta.errors import UserError
from mmmeta.models import FAMILIES, MetaFormer, UniFormer
from mmmeta.optimized.blocks import FusedBlock
from mmmeta.optimized.openvino import KEPT
from mmmeta.registry import TOKEN_MIXERS

SHALLOW = dict(depths=(1, 2, 2, 1), dims=(32, 64, 128, 192))
KINDS = {f.__name__: dict(type=f'mmmeta.{f.__name__}', arch=SHALLOW) for f in FAMILIES}
KINDS['UniFormer-window'] = dict(KINDS['UniFormer'], attention='window', window_size=3)
KINDS['UniFormer-small_plus'] = dict(  # another stem, more heads
    type='mmmeta.UniFormer',
    arch=dict(asdict(UniFormer.archs['small_plus']), **SHALLOW),
)
KINDS['ConvFormer-GELU'] = dict(
    type='mmmeta.ConvFormer',
    arch=dict(SHALLOW, act='GELU', layer_scale=0.5, mlp_bias=True),
)
KINDS['PoolFormer-5'] = dict(
    type='mmmeta.PoolFormer',
    arch=dict(SHALLOW, token_mixer=dict(type='Pooling', pool_size=5), act='SiLU'),
)
KINDS['PoolFormer-BN'] = dict(
    type='mmmeta.PoolFormer', arch=dict(SHALLOW, norm=dict(type='BN'), res_scale=0.5)
)
KINDS['PoolFormer-SyncBN'] = dict(
    type='mmmeta.PoolFormer', arch=dict(SHALLOW, norm=dict(type='SyncBN', affine=False))
)
KINDS['IdentityFormer-no-norm'] = dict(  # the branch is the map itself
    type='mmmeta.IdentityFormer', arch=dict(SHALLOW, norm=None, res_scale=0.5)
)
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
SIZES = [(1, 224, 224), (2, 97, 131), (1, 32, 33)]
LARGE = (1, 800, 864)


def trained(config: dict, **kwargs) -> MetaFormer:
    """A backbone whose parameters and statistics differ from their initial values."""
    model = MODELS.build(dict(config, **kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if 'layer_scale' in name:
                parameter.add_(0.3)
        for name, buffer in model.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(std=0.3)
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_onednn_gives_what_the_plain_backbone_gives(kind):
    plain = trained(KINDS[kind])
    fast = mmmeta.optimize(plain, backend='onednn')
    # Attention to the whole of the largest maps takes seconds, so that is left out.
    sizes = SIZES if kind in ('UniFormer', 'UniFormer-small_plus') else [*SIZES, LARGE]
    for batch, height, width in sizes:
        images = torch.randn(batch, 3, height, width)
        # With gradients, since without them inference would also use oneDNN.
        expected = [x.detach() for x in plain(images)]
        with torch.no_grad():
            assert worst(plain(images), expected) < 1e-4
        for _ in range(3):  # weights are packed when a shape is repeated
            found = fast(images)
            assert worst(found, expected) < 1e-4
        layout = torch.channels_last
        assert all(x.is_contiguous(memory_format=layout) for x in found)


@pytest.mark.parametrize('family', FAMILIES, ids=lambda f: f.__name__)
def test_the_official_sizes(family):
    plain = trained(
        dict(type=f'mmmeta.{family.__name__}', arch=next(iter(family.archs)))
    )
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert worst(mmmeta.optimize(plain)(images), plain(images)) < 1e-4


@functools.cache
def by_openvino(kind: str) -> tuple[MetaFormer, nn.Module]:
    """A backbone, plain and converted, which takes seconds and so is done once."""
    plain = trained(KINDS[kind])
    return plain, mmmeta.optimize(plain, backend='openvino')


def check_sizes(plain: MetaFormer, fast: nn.Module) -> None:
    """Compare them at new sizes and at repeated ones, for which openvino compiles."""
    with torch.no_grad():
        for size in ((224, 224), (128, 160), (96, 192), (224, 224), (96, 192)):
            images = torch.randn(1, 3, *size)
            assert worst(fast(images), plain(images)) < 1e-4


@pytest.mark.slow
def test_inductor_gives_what_the_plain_backbone_gives():
    # The C++ compiler takes a second per kernel: two stages of one block are enough.
    arch = dict(SHALLOW, depths=(1, 1, 1, 1))
    plain = trained(dict(type='mmmeta.PoolFormer', arch=arch), out_indices=(0, 1))
    check_sizes(plain, mmmeta.optimize(plain, backend='inductor'))


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['PoolFormer', 'CAFormer', 'UniFormer'])
def test_openvino_gives_what_the_plain_backbone_gives(kind):
    check_sizes(*by_openvino(kind))


def test_openvino_is_exact_at_large_sizes():
    arch = dict(depths=(1, 1, 1, 1), dims=(64, 128, 320, 512))
    plain = trained(dict(type='mmmeta.PoolFormer', arch=arch), out_norm=False)
    fast = mmmeta.optimize(plain, backend='openvino')
    for size in ((512, 512), (800, 1216)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = plain(images)
            for _ in range(2):  # for any shape, then for this one
                assert worst(fast(images), expected) < 1e-4


def test_openvino_takes_images_with_gradients():
    _, fast = by_openvino('PoolFormer')
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    assert worst(fast(images), fast(images.detach())) < 1e-4


def test_openvino_keeps_the_models_that_were_used_last():
    plain, fast = by_openvino('PoolFormer')
    sizes = [(32, 32 * n) for n in range(1, KEPT + 2)]
    for size in (*sizes, *sizes, *sizes):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert worst(fast(images), plain(images)) < 1e-4
    assert [shape[2:] for shape in fast.run._kept] == sizes[-KEPT:]


def test_openvino_at_small_sizes():
    """If the model for one shape is off by 1e-2, the one for any shape is used."""
    plain, fast = by_openvino('CAFormer')
    images = torch.randn(1, 3, 32, 32)
    for _ in range(3):
        assert worst(fast(images), plain(images)) < 1e-4


def test_openvino_on_one_core(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0})
    with pytest.raises(UserError, match=r"needs two CPU cores.*backend='onednn'"):
        mmmeta.optimize(build('PoolFormer'), backend='openvino')


def test_the_model_itself_is_left_alone():
    plain = trained(KINDS['ConvFormer'], drop_path_rate=0.5).train()
    before = copy.deepcopy(plain.state_dict())
    fast = mmmeta.optimize(plain)
    fast(torch.randn(1, 3, 64, 64))
    assert plain.training
    assert all(p.requires_grad for p in plain.parameters())
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())
    assert not fast.train().training


def test_images_are_left_alone_and_gradients_are_not_made():
    fast = mmmeta.optimize(trained(KINDS['PoolFormer'], out_norm=False))
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    before = images.detach().clone()
    first = [x.clone() for x in fast(images)]
    outs = fast(images)
    fast(torch.randn(1, 3, 64, 64))  # does not overwrite earlier outputs
    assert torch.equal(images, before)
    assert all(torch.equal(a, b) for a, b in zip(outs, first, strict=True))
    assert not any(x.requires_grad for x in outs)


def test_bfloat16_is_as_near_as_the_plain_model_in_bfloat16():
    plain = trained(KINDS['CAFormer'])
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = plain(images)
        fast = mmmeta.optimize(plain, dtype=torch.bfloat16)(images)
        low = copy.deepcopy(plain).bfloat16()(images.bfloat16())
    for found, allowed, true in zip(fast, low, expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - true).norm() < 1.1 * (allowed - true).norm()


def test_a_mixer_of_the_users_is_kept():
    class Shift(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(dim, 1, 1))

        def forward(self, x):
            return x.roll(1, 3) * self.weight

    TOKEN_MIXERS.register_module(module=Shift)
    try:
        config = dict(KINDS['PoolFormer'], token_mixer=dict(type='Shift'))
        plain = trained(config)
    finally:
        TOKEN_MIXERS.module_dict.pop('Shift')
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert worst(mmmeta.optimize(plain)(images), plain(images)) < 1e-4


def _detector(root, name: str) -> nn.Module:
    cfg = Config.fromfile(root / f'configs/detection/{name}.py').model
    cfg.backbone.init_cfg = None
    for part in (cfg.test_cfg, cfg.test_cfg.get('rcnn', {})):
        part['score_thr'] = 0.0  # random weights give low scores
    model = MODELS.build(dict(cfg, _scope_='mmdet')).eval()
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if 'layer_scale' in name:
                parameter.fill_(0.3)
    return model


@pytest.mark.parametrize(
    'name', ['retinanet_poolformer_s12', 'mask_rcnn_poolformer_s12']
)
def test_a_detector_finds_the_same(root, name):
    from mmdet.structures import DetDataSample

    plain = _detector(root, name)
    fast = mmmeta.optimize(plain)
    for x in fast.backbone(torch.randn(1, 3, 160, 192)):
        assert x.is_contiguous(memory_format=torch.channels_last)
    sample = DetDataSample(
        metainfo=dict(img_shape=(160, 192), ori_shape=(160, 192), scale_factor=(1, 1))
    )
    images = torch.randn(1, 3, 160, 192)
    with torch.no_grad():
        expected = plain.predict(images, [copy.deepcopy(sample)])[0].pred_instances
        found = fast.predict(images, [copy.deepcopy(sample)])[0].pred_instances
        maps = fast.extract_feat(images), plain.extract_feat(images)
    assert worst(*maps) < 1e-4
    assert isinstance(found, InstanceData)
    assert len(found) == len(expected) == 100
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-3)


def test_a_segmentor_and_a_classifier_give_the_same(root):
    cfg = Config.fromfile(root / 'configs/segmentation/upernet_caformer_s18.py').model
    cfg.backbone.init_cfg = None
    cfg.data_preprocessor.type = 'mmseg.SegDataPreProcessor'
    segmentor = MODELS.build(dict(cfg, _scope_='mmseg')).eval()
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        expected = segmentor(images)
        assert worst([mmmeta.optimize(segmentor)(images)], [expected]) < 1e-4
    classifier = mmmeta.create_model('convformer_s18').eval()
    with torch.no_grad():
        expected = classifier(images)
        assert worst([mmmeta.optimize(classifier)(images)], [expected]) < 1e-4


def test_errors():
    with pytest.raises(TypeError, match=r'takes an mmmeta backbone.*Conv2d'):
        mmmeta.optimize(nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match=r"'fast'; choose from auto, onednn, inductor"):
        mmmeta.optimize(trained(KINDS['PoolFormer']), backend='fast')
    with pytest.raises(UserError, match=r"on meta: use backend='inductor'"):
        with torch.device('meta'):
            model = MODELS.build(KINDS['PoolFormer'])
        mmmeta.optimize(model, backend='onednn')


@pytest.mark.parametrize('family', ['PoolFormer', 'ConvFormer', 'CAFormer'])
@pytest.mark.parametrize('change', CHANGES)
def test_what_users_changed_is_kept(family, change):
    model = build(family)
    change(blocks(model)[1])
    expected = model(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fast = mmmeta.optimize(model)
    assert worst(fast(X), expected) < 1e-4
    taken = [isinstance(b, FusedBlock) for b in fast.run.modules()]
    assert sum(taken) >= 3  # the others
    if sum(taken) == 3:
        assert 'optimize keeps stages.1.blocks.0 unchanged' in str(caught[0].message)


def circular_padding(model: nn.Module) -> None:
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            conv.padding_mode = 'circular'
            both = [conv.padding[1]] * 2 + [conv.padding[0]] * 2
            conv._reversed_padding_repeated_twice = both


def test_other_padding_is_kept():
    model = build('ConvFormer')
    images = torch.randn(1, 3, 128, 160)
    before = model(images)
    circular_padding(model)
    assert worst(before, model(images)) > 0.1
    with pytest.warns(UserWarning, match=r'stages\.0\.downsample, stages\.0\.block'):
        assert worst(mmmeta.optimize(model)(images), model(images)) < 1e-4


def test_a_copy_that_differs_is_refused(monkeypatch):
    forward = FusedBlock.forward
    monkeypatch.setattr(FusedBlock, 'forward', lambda self, x: x + forward(self, x))
    with pytest.raises(UserError, match=r"'onednn' is off by .* use the plain model"):
        mmmeta.optimize(build('ConvFormer'))


@pytest.mark.parametrize('family', ['CAFormer', 'UniFormer', 'PoolFormer'])
def test_other_states(family):
    """Under autocast, in other dtypes, with other weights, with no images, copied."""
    model = build(family)
    fast = mmmeta.optimize(model)
    expected = model(X)
    with torch.autocast('cpu', torch.bfloat16):
        assert worst(fast(X), expected) < 1e-4
    assert [len(x) for x in fast(X[:0])] == [0] * 4
    for _ in range(3):
        fast(X)  # weights are packed when a shape is repeated
    other = mmmeta.optimize(model)
    new = {
        n: v * 1.1 if v.is_floating_point() else v for n, v in fast.state_dict().items()
    }
    for one in (fast, other):
        one.load_state_dict(new)
    assert worst(fast(X), other(X)) < 1e-5 < worst(fast(X), expected)
    assert worst(copy.deepcopy(fast)(X), fast(X)) < 1e-5
    low = mmmeta.optimize(model).to(torch.bfloat16)
    assert [x.dtype for x in low(X)] == [torch.float32] * 4
    assert 1e-5 < worst(low(X), expected) < 0.3
    with pytest.raises(UserError, match=r'cannot be moved to torch\.float64 on cpu'):
        mmmeta.optimize(model).double()
    with pytest.raises(UserError, match=r'float32 or bfloat16.*in float64: pass dtype'):
        mmmeta.optimize(copy.deepcopy(model).double(), backend='onednn')
    exact = mmmeta.optimize(copy.deepcopy(model).double(), dtype=torch.float32)
    assert worst(exact(X), expected) < 1e-4


def test_a_state_dict_is_read_back_safely():
    fast = mmmeta.optimize(build('ConvFormer'), backend='onednn')
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    fast.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize('where', ['weights', 'images'])
def test_what_is_not_finite_is_seen(where):
    model, images = build('ConvFormer'), X.clone()
    if where == 'images':
        images[0, 0, 20, 20] = torch.nan
    else:
        blocks(model)[1].mlp.fc1.weight.data[3] = torch.nan
    expected = model(images)
    assert expected[-1].isnan().any()
    for a, b in zip(mmmeta.optimize(model)(images), expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())


def test_several_threads_at_once():
    fast = mmmeta.optimize(build('ConvFormer'))
    images = [torch.randn(1, 3, 64, 32 * n) for n in (1, 2, 3)]
    expected = [fast(x) for x in images]

    def run(k: int) -> float:
        return max(worst(fast(x), y) for x, y in zip(images, expected, strict=True))

    fast = mmmeta.optimize(build('ConvFormer'))  # nothing is packed
    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(run, range(40))) < 1e-4


STOCK = {
    # Convolutions shared by levels that have batch norms of their own.
    'RetinaSepBN': 'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py',
    # Batch norms in front of, behind and between what several paths share.
    'NAS-FPN': 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',
    'DyHead': 'dyhead/atss_r50_fpn_dyhead_1x_coco.py',
    # A head of regions that takes views of contiguous maps.
    'Grid R-CNN': 'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
}


@pytest.mark.parametrize('name', STOCK)
def test_stock_detectors_find_the_same(name):
    """Nothing outside the backbone is folded, whatever its norms."""
    from mmdet.structures import DetDataSample

    levels = 4 if name == 'NAS-FPN' else 3
    model = odd_models.build(odd_models.detector(STOCK[name], levels))
    for key, buffer in model.named_buffers():
        if key.endswith('running_mean'):
            buffer.normal_(std=0.3)
        if key.endswith('running_var'):
            buffer.uniform_(0.5, 2)
    fast = mmmeta.optimize(model)
    kept = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, m in fast.named_modules() if isinstance(m, nn.BatchNorm2d)} == {
        n for n in kept if not n.startswith('backbone.')
    }
    size = 128, 160
    shapes = dict(img_shape=size, ori_shape=size, batch_input_shape=size)
    sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        found, expected = (
            m.predict(images, [sample.clone()])[0].pred_instances for m in (fast, model)
        )
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.bboxes, expected.bboxes, atol=0.02, rtol=1e-3)
    assert torch.equal(found.labels, expected.labels)


def test_the_comparison_leaves_no_trace():
    class Drawing(nn.Module):
        def __init__(self, dim):
            super().__init__()

        def forward(self, x):
            return x + 0 * torch.rand(1)

    model = build(
        'PoolFormer', token_mixer=dict(type=Drawing), norm_cfg=dict(type='BN')
    )
    model.train()
    hook = model.stages[0].register_forward_hook(lambda module, args, out: None)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [m.training for m in model.modules()]
    with pytest.warns(UserWarning, match='optimize keeps'):
        fast = mmmeta.optimize(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(model.stages[0]._forward_hooks) == [hook.id]
    assert worst(fast(X), model.eval()(X)) < 1e-4


def test_a_detector_whose_backbone_returns_nothing_from_eval():
    """MMDetection's own backbones do not return themselves; a user's may do so too."""

    class Silent(MetaFormer):
        def train(self, mode=True):
            super().train(mode)

    model = Silent('poolformer_s12')
    assert model.eval() is None
    assert mmmeta.optimize(model)(X)[0].shape == (2, 64, 16, 24)
