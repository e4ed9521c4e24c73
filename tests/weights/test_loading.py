"""Strict loading: what may be missing or unused, and what is rejected."""

import ast
from pathlib import Path

import pytest
import timm
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load
from torch import nn

import mmmeta
from mmmeta.models import PoolFormer, UniFormer
from mmmeta.registry import MODELS
from mmmeta.weights import CheckpointError, load_backbone, load_checkpoint
from mmmeta.weights.compare import adapt_input_channels
from mmmeta.weights.loading import find_backbone
from mmmeta.weights.state import parse, to_layout

TINY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    """A tiny classifier's checkpoint in the official layout."""
    state = tiny(fork_feat=False).state_dict()
    state |= {'head.fc.weight': torch.randn(5, 32), 'head.fc.bias': torch.randn(5)}
    return to_layout(parse(state), 'sail-sg/poolformer')


def tiny(**kwargs) -> PoolFormer:
    return PoolFormer(arch=kwargs.pop('arch', TINY), **kwargs)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


class Detector(BaseModule):
    """The parts of a detector that matter for loading."""

    def __init__(self, init_cfg=None, **kwargs) -> None:
        super().__init__(init_cfg)
        self.backbone = tiny(**kwargs)
        self.bbox_head = nn.Linear(32, 4)


@pytest.mark.parametrize(
    ('kwargs', 'kept', 'left'),
    [
        ({}, {'norm0', 'norm1', 'norm2', 'norm3'}, {'norm', 'head'}),
        (dict(fork_last3=True), {'norm1', 'norm2', 'norm3'}, {'norm', 'head'}),
        (dict(out_norm=False), set(), {'norm', 'head'}),
        (dict(fork_feat=False), set(), {'head'}),
        (dict(out_indices=(0, 1)), {'norm0', 'norm1'}, {'norm', 'head', 'stages'}),
    ],
)
def test_dense_from_a_classifier(official, kwargs, kept, left):
    module = tiny(**kwargs)
    report = load_backbone(module, official)
    assert {name.split('.')[0] for name in report.kept} == kept
    assert {name.split('.')[0] for name in report.left} == left
    parsed = parse(official)
    for key, value in module.state_dict().items():
        if key in parsed.backbone:
            assert torch.equal(value, parsed.backbone[key]), key
        else:
            assert torch.equal(value, torch.full_like(value, key.endswith('weight')))
    assert report.loaded == len(module.state_dict()) - len(report.kept)
    assert 'as expected' in str(report)


def test_dense_norms_in_the_file_are_loaded(official):
    official['norm2.weight'] = torch.full((16,), 3.0)
    official['norm2.bias'] = torch.full((16,), 4.0)
    module = tiny()
    load_backbone(module, official)
    assert module.norm1.weight.eq(3).all()
    assert module.norm1.bias.eq(4).all()


def _without(key):
    return lambda state: state.pop(key)


def _renamed(state):
    state['network.0.0.mlp.fc9.weight'] = state.pop('network.0.0.mlp.fc2.weight')


def _set(key, value):
    return lambda state: state.__setitem__(key, value)


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (_without('network.2.0.mlp.fc1.bias'), r'1 missing: stages\.1\.blocks\.0\.mlp'),
        (_renamed, r'nearest is .sail-sg/poolformer.*not network\.0\.0\.mlp\.fc9'),
        (
            _set('network.0.0.norm1.weight', torch.ones(9)),
            r'shape \(9,\), expected \(8,\)',
        ),
        (_set('network.0.1.norm1.weight', torch.ones(8)), r'unexpected.*network\.0\.1'),
        (_set('network.0.0.norm1.weight', torch.ones(8).long()), 'int64, expected'),
        (_set('network.0.0.norm1.weight', torch.ones(8).cfloat()), 'x64, expected'),
        (
            _set('network.0.0.norm1.weight', torch.tensor([1.0] * 7 + [float('nan')])),
            r'norm1\.weight has 1 of 8 values that are NaN or infinite',
        ),
        (
            _set('network.0.0.norm1.bias', torch.full((8,), float('inf'))),
            r'norm1\.bias has 8 of 8 values that are NaN',
        ),
        (
            _set('network.0.0.norm1.bias', torch.ones(8).to_sparse()),
            'not a plain dense tensor',
        ),
        (_set('norm0.weight', torch.ones(8)), r'1 missing: norm0\.bias'),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(official, spoil, words):
    spoil(official)
    module = tiny()
    before = snapshot(module)
    with pytest.raises(CheckpointError, match=f'(?s){words}'):
        load_backbone(module, official)
    assert unchanged(module, before)


def test_message_is_short_and_names_the_file(official, tmp_path):
    path = tmp_path / 'small.pth'
    torch.save(official, path)
    module = PoolFormer(arch='s12')
    with pytest.raises(CheckpointError) as caught:
        load_backbone(module, path)
    text = str(caught.value)
    assert str(path) in text
    assert "layout 'sail-sg/poolformer'" in text
    assert 'depths (1, 1, 1, 1) and dims (8, 16, 24, 32)' in text
    assert 'has shape (8, 3, 7, 7), expected (64, 3, 7, 7)' in text
    assert len(text) < 1500


def test_another_size_is_named():
    state = to_layout(parse(PoolFormer('s12', fork_feat=False).state_dict()), 'mmmeta')
    with pytest.raises(CheckpointError, match="like arch 's12'"):
        load_backbone(PoolFormer('s24'), state)


@pytest.mark.parametrize('has', [True, False])
def test_layer_scale_on_one_side_only(has):
    arch = dict(TINY, layer_scale=None)
    plain, scaled = tiny(arch=arch), tiny()
    target, source = (plain, scaled) if has else (scaled, plain)
    side = (
        'checkpoint has layer scale but the model'
        if has
        else ('model has layer scale but the checkpoint')
    )
    with pytest.raises(CheckpointError, match=side):
        load_backbone(target, source.state_dict())


def test_a_layer_scale_that_is_missing_is_no_sign_of_another_arch():
    source = tiny().state_dict()
    key = next(key for key in source if 'layer_scale' in key)
    del source[key]
    with pytest.raises(CheckpointError) as caught:
        load_backbone(tiny(), source)
    assert key in str(caught.value)
    assert 'has layer scale' not in str(caught.value)


@pytest.mark.parametrize('arch', ['base', 'base_ls'])
def test_layer_scale_of_uniformer_is_refused_or_missed(arch, golden):
    shapes = golden('uniformer_base_ls').keys
    official = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    if arch == 'base_ls':
        official = {k: v for k, v in official.items() if 'gamma_' not in k}
        message = 'model has layer scale but the checkpoint'
    else:
        message = 'checkpoint has layer scale but the model'
    with torch.device('meta'):
        module = UniFormer(arch)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(module, official)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes_are_converted(official, dtype):
    module = tiny(fork_feat=False)
    load_backbone(module, {k: v.to(dtype) for k, v in official.items()})
    for key, value in parse(official).backbone.items():
        mine = module.state_dict()[key]
        assert mine.dtype is torch.float32
        assert torch.equal(mine, value.to(dtype).float())


def test_counters_of_batch_norms_may_be_missing():
    arch = dict(TINY, norm=dict(type='BN'))
    state = tiny(arch=arch).state_dict()
    state = {k: v for k, v in state.items() if 'num_batches' not in k}
    report = load_backbone(tiny(arch=arch), state)
    assert len(report.kept) == 8
    state.pop('stages.0.blocks.0.norm1.running_mean')
    with pytest.raises(CheckpointError, match='running_mean'):
        load_backbone(tiny(arch=arch), state)


@pytest.mark.parametrize('channels', [1, 2, 4, 6])
def test_stem_for_other_channels(official, channels):
    module = tiny(in_channels=channels)
    load_backbone(module, official)
    stem, given = (
        module.stages[0].downsample.conv.weight,
        official['patch_embed.proj.weight'],
    )
    assert torch.equal(stem, adapt_input_channels(given, channels))
    if channels == 1:
        gray = torch.randn(1, 1, 32, 32)
        assert torch.allclose(
            nn.functional.conv2d(gray, stem),
            nn.functional.conv2d(gray.expand(-1, 3, -1, -1), given),
            atol=1e-4,
        )
    else:
        assert torch.allclose(stem[:, 0], given[:, 0] * 3 / channels)
        assert torch.allclose(stem[:, -1], given[:, (channels - 1) % 3] * 3 / channels)


def test_stem_is_not_adapted_unasked():
    state = tiny(in_channels=1).state_dict()
    with pytest.raises(CheckpointError, match='in_channels='):
        load_backbone(tiny(), state)
    with pytest.raises(CheckpointError, match='in_channels='):
        load_backbone(tiny(in_channels=4), state)
    load_backbone(tiny(in_channels=1), state)
    with pytest.raises(ValueError, match='got 4'):
        adapt_input_channels(torch.ones(2, 4, 1, 1), 3)


class TestInitCfg:
    def test_strict_and_once(self, official, tmp_path):
        path = str(tmp_path / 'x.pth')
        torch.save({'model': official}, path)
        module = tiny(init_cfg=dict(type='Pretrained', checkpoint=path))
        module.init_weights()
        key = 'stages.0.blocks.0.mlp.fc1.weight'
        assert torch.equal(module.state_dict()[key], parse(official).backbone[key])
        assert module.is_init
        assert not hasattr(module, '_params_init_info')
        with torch.no_grad():
            module.norm0.weight.fill_(7)
            module.get_parameter(key).fill_(7)
        module.init_weights()  # a second call changes nothing
        assert module.get_parameter(key).eq(7).all()

    def test_other_entries_come_first(self, official, tmp_path):
        path = str(tmp_path / 'x.pth')
        torch.save(official, path)
        module = tiny(
            init_cfg=[
                dict(type='Pretrained', checkpoint=path),
                dict(type='Constant', layer='Conv2d', val=9.0),
                dict(type='Constant', layer='MapLayerNorm', val=5.0),
            ]
        )
        module.init_weights()
        key = 'stages.0.blocks.0.mlp.fc1.weight'
        assert torch.equal(module.get_parameter(key), parse(official).backbone[key])
        assert module.norm0.weight.eq(5).all()

    def test_inside_a_model_with_a_prefix(self, official, tmp_path):
        path = str(tmp_path / 'x.pth')
        torch.save({f'encoder.{k}': v for k, v in official.items()}, path)
        cfg = dict(type='Pretrained', checkpoint=path, prefix='encoder.')
        model = Detector()
        model.backbone.init_cfg = cfg
        model.init_weights()
        key = 'stages.3.blocks.0.mlp.fc2.bias'
        assert torch.equal(
            model.backbone.get_parameter(key), parse(official).backbone[key]
        )
        assert model.is_init and model.backbone.is_init
        assert not hasattr(model.backbone, '_params_init_info')

    def test_failure_can_be_tried_again(self, official, tmp_path):
        path = tmp_path / 'x.pth'
        module = tiny(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        with pytest.raises(CheckpointError, match='does not exist'):
            module.init_weights()
        assert not module.is_init
        torch.save(official, path)
        module.init_weights()
        assert module.is_init

    def test_without_init_cfg(self):
        module = tiny()
        before = snapshot(module)
        module.init_weights()
        assert unchanged(module, before)
        assert module.is_init


class TestAnyLoad:
    """PyTorch's and MMEngine's own loading come through the backbone."""

    def test_pytorch_translates(self, official):
        module = tiny()
        module.load_state_dict(official)
        key = 'stages.2.downsample.conv.weight'
        assert torch.equal(module.get_parameter(key), official['network.3.proj.weight'])
        assert module.norm0.weight.eq(1).all()

    def test_pytorch_inside_a_model(self, official):
        model = Detector()
        state = {f'backbone.{k}': v for k, v in official.items() if 'head' not in k}
        state |= {f'bbox_head.{k}': v for k, v in model.bbox_head.state_dict().items()}
        given = dict(state)
        model.load_state_dict(state)
        key = 'stages.1.downsample.conv.weight'
        want = official['network.1.proj.weight']
        assert torch.equal(model.backbone.get_parameter(key), want)
        assert state.keys() == given.keys()  # the caller's is not changed

    def test_own_names_are_untouched(self):
        one, two = tiny(), tiny()
        assert 'All keys matched' in str(two.load_state_dict(one.state_dict()))
        assert unchanged(two, one.state_dict())
        state = one.state_dict()
        state.pop('norm0.weight')
        with pytest.raises(RuntimeError, match=r'norm0\.weight'):
            two.load_state_dict(state)

    def test_not_strict_is_honoured_for_the_backbone(self):
        state = {'stages.0.downsample.conv.bias': torch.full((8,), 2.0)}
        module = tiny()
        keys = module.load_state_dict(state, strict=False)
        assert module.stages[0].downsample.conv.bias.eq(2).all()
        assert 'norm0.weight' in keys.missing_keys
        module.load_state_dict({'nonsense': torch.ones(1)}, strict=False)
        with pytest.raises(CheckpointError):  # and is back to strict
            module.load_state_dict({'nonsense': torch.ones(1)})

    @pytest.mark.parametrize(
        'spoil', ['missing', 'unexpected', 'shape', 'none', 'size']
    )
    def test_mmengine_raises_rather_than_logs(self, tmp_path, spoil):
        state = Detector().state_dict()
        key = 'backbone.stages.1.blocks.0.mlp.fc1.weight'
        if spoil == 'missing':
            state.pop(key)
        elif spoil == 'unexpected':
            state[key.replace('blocks.0', 'blocks.1')] = state[key]
        elif spoil == 'shape':
            state[key] = state[key][:3]
        elif spoil == 'none':
            state = {k: v for k, v in state.items() if 'backbone' not in k}
        else:
            arch = dict(TINY, depths=(1, 1, 2, 1))
            state = Detector(arch=arch).state_dict()
        path = tmp_path / 'x.pth'
        torch.save({'state_dict': state}, path)
        model = Detector()
        before = snapshot(model.backbone)
        with pytest.raises(CheckpointError, match=r"under 'backbone\.'"):
            mmengine_load(model, str(path))
        assert unchanged(model.backbone, before)

    def test_mmengine_loads_a_classifier_into_a_detector(self, official, tmp_path):
        path = tmp_path / 'x.pth'
        torch.save(
            {'state_dict': {f'backbone.{k}': v for k, v in official.items()}}, path
        )
        model = Detector(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        model.init_weights()
        key = 'stages.1.downsample.conv.weight'
        want = official['network.1.proj.weight']
        assert torch.equal(model.backbone.get_parameter(key), want)

    def test_resuming_is_exact(self, tmp_path):
        one, two = Detector(), Detector()
        path = tmp_path / 'x.pth'
        torch.save({'state_dict': one.state_dict()}, path)
        mmengine_load(two, str(path), strict=True)
        assert unchanged(two, one.state_dict())


class TestWholeModels:
    def test_detector(self, official):
        model, other = Detector(), Detector()
        load_checkpoint(other, model.state_dict())
        assert unchanged(other, model.state_dict())
        state = {k: v for k, v in model.state_dict().items() if k != 'bbox_head.bias'}
        before = snapshot(other)
        with pytest.raises(CheckpointError, match=r'1 missing: bbox_head\.bias'):
            load_checkpoint(other, state)
        assert unchanged(other, before)
        with pytest.raises(CheckpointError, match=r'bbox_head\.weight'):
            load_checkpoint(other, official)

    def test_backbone(self, official):
        assert load_checkpoint(tiny(), official).loaded

    def test_no_backbone(self, official):
        with pytest.raises(TypeError, match='has 0'):
            load_checkpoint(nn.Linear(1, 1), official)
        with pytest.raises(TypeError, match='has 2'):
            load_checkpoint(nn.Sequential(tiny(), tiny()), official)


class Lookalike(BaseModule):
    """Another package's backbone, with the attributes of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.arch, self.archs, self.in_channels = tiny().arch, PoolFormer.archs, 3
        self.stages = tiny().stages


class TestFindBackbone:
    @pytest.mark.parametrize(
        ('wrap', 'prefix'),
        [
            (lambda backbone: backbone, ''),
            (nn.DataParallel, 'module.'),
            (torch.compile, '_orig_mod.'),
            (lambda backbone: nn.Sequential(Lookalike(), backbone), '1.'),
        ],
        ids=['bare', 'parallel', 'compiled', 'beside a lookalike'],
    )
    def test_in_what_is_around_it(self, wrap, prefix):
        class Mine(PoolFormer):
            pass

        for backbone in (tiny(), Mine(TINY)):
            assert find_backbone(wrap(backbone)) == (prefix, backbone)

    @pytest.mark.parametrize(
        'build',
        [
            Lookalike,
            lambda: torch.compile(Lookalike()),
            lambda: timm.create_model('poolformer_s12'),
            lambda: MODELS.build(dict(type='mmpretrain.PoolFormer', arch='s12')),
            lambda: mmmeta.optimize(tiny(), backend='inductor'),
        ],
        ids=['lookalike', 'compiled', 'timm', 'mmpretrain', 'optimized'],
    )
    def test_not_in_others(self, build):
        with torch.device('meta'):
            model = build()
        with pytest.raises(TypeError, match=r'one mmmeta .* but \w+ has 0; pass'):
            find_backbone(model)


def test_weights_import_no_model():
    """Models import weights, so that the other way would be a circle."""
    allowed = ('archs', 'errors', 'registry', 'version', 'weights')
    files = list(Path(mmmeta.__file__).parent.glob('weights/*.py'))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, 'names', [])]
            if isinstance(node, ast.ImportFrom):
                names = [f'{node.module}.{name}' for name in names]
            for name in names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                top, _, rest = name.partition('.')
                assert top != 'mmmeta' or rest.split('.')[0] in allowed, (file, name)


@pytest.fixture(scope='module')
def state() -> dict[str, torch.Tensor]:
    """A classifier's official checkpoint with 7 classes."""
    torch.manual_seed(0)
    model = mmmeta.create_model('poolformer_s12', num_classes=7)
    return to_layout(parse(model.state_dict()), 'sail-sg/poolformer')


class TestClassifiers:
    """`create_model`, with the smallest of the archs."""

    def test_number_of_classes(self, state):
        with pytest.raises(
            CheckpointError, match=r'has 7 classes, the model 1000.*num_classes='
        ):
            mmmeta.create_model('poolformer_s12', checkpoint=state)
        same = mmmeta.create_model('poolformer_s12', checkpoint=state, num_classes=7)
        assert torch.equal(same.head.fc.weight, state['head.weight'])
        new = mmmeta.create_model('poolformer_s12', checkpoint=state, num_classes=3)
        assert new.head.fc.weight.shape == (3, 512)
        assert torch.equal(new.backbone.norm.weight, state['norm.weight'])
        assert new.training

    def test_runner_does_not_draw_a_new_head(self, state):
        model = mmmeta.create_model('poolformer_s12', checkpoint=state, num_classes=7)
        model.init_weights()
        assert torch.equal(model.head.fc.weight, state['head.weight'])

    def test_dense_checkpoint(self, state):
        dense = {
            f'backbone.{k}': v
            for k, v in state.items()
            if k[:4] not in ('norm', 'head')
        }
        dense['bbox_head.x'] = torch.ones(1)
        with pytest.raises(CheckpointError, match=r'no classifier.*num_classes'):
            mmmeta.create_model('poolformer_s12', checkpoint=dense)
        model = mmmeta.create_model('poolformer_s12', checkpoint=dense, num_classes=4)
        assert model.backbone.norm.weight.eq(1).all()
        key = 'stages.1.downsample.conv.weight'
        assert torch.equal(
            model.backbone.get_parameter(key), state['network.1.proj.weight']
        )

    def test_missing_neck(self):
        model = mmmeta.create_model('identityformer_s12', num_classes=3)
        state = {k: v for k, v in model.state_dict().items() if k != 'neck.norm.bias'}
        with pytest.raises(CheckpointError, match=r'1 missing: neck\.norm\.bias'):
            load_checkpoint(model, state)

    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r'nearest: .*caformer_s18.*list_models'):
            mmmeta.create_model('caformer_s81')
        with pytest.raises(CheckpointError, match=r'nearest: caformer_s18\.sail_in1k,'):
            mmmeta.create_model('caformer_s18.sail_in1kk')

    def test_without_mmpretrain(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, 'mmpretrain', None)
        monkeypatch.setitem(sys.modules, 'mmpretrain.models', None)
        with pytest.raises(ImportError, match=r'mmmeta-backbones\[onedl\]'):
            mmmeta.create_model('poolformer_s12')
