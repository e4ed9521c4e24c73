"""mmmeta inside its host libraries, with none of them, and in a detector's loss."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

ROOT = Path(__file__).resolve().parents[1]
RETINANET = ROOT / 'configs/detection/retinanet_poolformer_s12.py'

BLOCK = 'import sys; sys.modules.update(dict.fromkeys({blocked}))\n'
BACKBONE = """
import torch
from mmengine.registry import MODELS
backbone = MODELS.build(dict(type='mmmeta.PoolFormer', arch='s12'))
print([tuple(m.shape) for m in backbone(torch.randn(1, 3, 64, 64))])
"""


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess:
    """Run `code` in a Python where the modules `blocked` cannot be imported."""
    command = [sys.executable, '-c', BLOCK.format(blocked=blocked) + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_backbone_needs_no_host_library():
    result = run_without({'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}, BACKBONE)
    assert result.returncode == 0, result.stderr
    assert '(1, 64, 16, 16), (1, 128, 8, 8), (1, 320, 4, 4), (1, 512, 2, 2)' in (
        result.stdout
    )


@pytest.mark.parametrize(
    ('blocked', 'code'),
    [
        ('mmengine', 'import mmmeta.models'),
        ('mmpretrain', "import mmmeta; mmmeta.create_model('poolformer_s12')"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(blocked, code):
    result = run_without({blocked}, code)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith('mmmeta.errors.MissingLibraryError: ')
    assert 'mmmeta-backbones[onedl]' in last


@pytest.mark.parametrize('host', ['mmdet', 'mmseg', 'mmpretrain'])
def test_builds_from_each_host_in_its_own_scope(host):
    registry = importlib.import_module(f'{host}.registry').MODELS
    init_default_scope(host)
    backbone = registry.build(dict(type='mmmeta.PoolFormer', arch='s12'))
    assert type(backbone).__module__ == 'mmmeta.models.families'


def test_hub_finds_configs_and_models():
    cfg = get_config('mmmeta::detection/retinanet_poolformer_s12.py')
    assert cfg.model.backbone.type == 'mmmeta.PoolFormer'
    model = get_model('mmmeta::detection/retinanet_poolformer_s12.py')
    assert type(model).__name__ == 'RetinaNet'
    assert type(model.backbone).__name__ == 'PoolFormer'


def test_mmseg_bases_resolve():
    cfg = get_config('mmseg::_base_/models/fpn_poolformer_s12.py')
    assert cfg.model.type == 'EncoderDecoder'


def retinanet(**backbone) -> torch.nn.Module:
    cfg = Config.fromfile(RETINANET)
    cfg.model.backbone.update(init_cfg=None, **backbone)
    if 'out_indices' in backbone:
        cfg.model.neck.update(in_channels=[128, 320, 512], start_level=0)
    init_default_scope('mmdet')
    return MODELS.build(cfg.model).train()


def retinanet_loss(model: torch.nn.Module) -> torch.Tensor:
    from mmdet.structures import DetDataSample

    shape = dict(img_shape=(64, 96), batch_input_shape=(64, 96), pad_shape=(64, 96))
    sample = DetDataSample(metainfo=shape)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 44.0]]), labels=torch.tensor([3])
    )
    losses = model(torch.randn(1, 3, 64, 96), [sample], mode='loss')
    return sum(sum(values) for values in losses.values())


@pytest.mark.parametrize(
    ('variable', 'backbone', 'without_gradient'),
    [
        ('1', dict(fork_last3=None), set()),
        ('0', dict(fork_last3=True), set()),
        (
            '0',
            dict(fork_last3=None),
            {'backbone.norm0.weight', 'backbone.norm0.bias'},
        ),
        ('0', dict(fork_last3=False, out_indices=(1, 2, 3)), set()),
    ],
)
def test_parameters_with_a_gradient_in_a_retinanet_loss(
    monkeypatch, variable, backbone, without_gradient
):
    monkeypatch.setenv('FORK_LAST3', variable)
    model = retinanet(**backbone)
    retinanet_loss(model).backward()
    found = {n for n, p in model.named_parameters() if p.grad is None}
    assert found == without_gradient


@pytest.fixture
def one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_finds_no_unused_parameter(one_process):
    def train(**backbone):
        model = torch.nn.parallel.DistributedDataParallel(retinanet(**backbone))
        for _ in range(2):  # the second pass reports what the first lacked
            retinanet_loss(model).backward()

    train(fork_last3=True)
    with pytest.raises(RuntimeError, match='Expected to have finished reduction'):
        train(fork_last3=False)


def test_regions_are_cut_from_the_right_places():
    """RoIAlign reads backbones' maps in any memory format."""
    from mmcv.ops import RoIAlign

    backbone = MODELS.build(dict(type='mmmeta.PoolFormer', arch='s12')).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    boxes = torch.tensor([[0.0, 0, 0, 64, 32], [1.0, 32, 16, 96, 64]])
    align = RoIAlign(4, spatial_scale=1 / 4, sampling_ratio=2)
    # One position at a time, by the definition: the mean of four bilinear samples.
    found = align(maps[0], boxes)
    for k, (image, left, top, right, bottom) in enumerate(boxes.tolist()):
        width, height = (right - left) / 4, (bottom - top) / 4
        steps = (torch.arange(8) + 0.5) / 8
        x = left / 4 - 0.5 + steps * width
        y = top / 4 - 0.5 + steps * height
        rows, columns = maps[0].shape[2:]
        # Outside the map RoIAlign uses the border's value.
        grid = torch.stack(
            [
                (2 * x.clamp(0, columns - 1) / (columns - 1) - 1).expand(8, 8),
                (2 * y.clamp(0, rows - 1) / (rows - 1) - 1)[:, None].expand(8, 8),
            ],
            -1,
        )
        sampled = torch.nn.functional.grid_sample(
            maps[0][int(image)][None], grid[None], align_corners=True
        )
        expected = torch.nn.functional.avg_pool2d(sampled, 2)
        torch.testing.assert_close(found[k], expected[0], atol=1e-4, rtol=1e-4)
