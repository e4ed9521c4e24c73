"""The table of published checkpoints, and mmmeta:// names."""

import hashlib
import subprocess
import sys
from urllib.parse import urlparse

import pytest
import timm
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load

import mmmeta
from mmmeta.archs.families import ARCHS
from mmmeta.models import FAMILIES, PoolFormer
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.layouts import LAYOUT_NAMES
from mmmeta.weights.names import find, list_models
from mmmeta.weights.zoo import ZOO

HOSTS = {
    'github.com',
    'download.openmmlab.com',
    'mmassets.onedl.ai',
    'huggingface.co',
    'drive.google.com',
}


def test_every_arch_of_every_family_has_a_row():
    built = {f'{f.family.lower()}_{size}' for f in FAMILIES for size in f.archs}
    assert set(ARCHS) == built
    published = {row.arch for row in ZOO.values()}
    assert published <= built and len(published) == 33
    assert len(ZOO) == 65


def test_timm_agrees():
    """Names, input size, crop, classes, mean and std are timm's where it has them."""
    shared = [name for name in ZOO if name in timm.list_pretrained()]
    assert len(shared) == 50
    for name in shared:
        row, cfg = ZOO[name], timm.get_pretrained_cfg(name)
        assert cfg.input_size == (3, row.input_size, row.input_size), name
        assert cfg.crop_pct == row.crop_pct, name
        assert cfg.num_classes == row.num_classes, name
        assert (cfg.mean, cfg.std) == (row.mean, row.std), name
        assert cfg.interpolation == row.interpolation
        assert cfg.license.lower() == row.license.lower()


def test_rows_are_complete():
    for name, row in ZOO.items():
        assert row.name == name
        assert row.layout in LAYOUT_NAMES
        assert row.sources
        assert (row.top1 is None) == (row.num_classes == 21841)
        assert 1 < row.macs < 80
        assert 10 < row.params <= 100
        for source in row.sources:
            url = urlparse(source.url)
            assert url.scheme == 'https'
            assert url.hostname in HOSTS
            assert source.file.endswith(('.pth', '.pth.tar', '.safetensors'))
    drive = [name for name, row in ZOO.items() if row.sources[0].drive_id]
    assert drive == [
        'uniformer_small_plus_dim64.sensex_in1k',
        'uniformer_base_ls.sensex_in1k',
    ]


def test_no_two_checkpoints_share_a_file():
    owner: dict[str, str] = {}
    for name, row in ZOO.items():
        for source in row.sources:
            assert owner.setdefault(source.file, name) == name


@pytest.mark.parametrize(
    ('name', 'url', 'top1', 'macs'),
    [
        (
            'caformer_b36.sail_in22k_ft_in1k_384',
            'https://huggingface.co/sail/dl/resolve/main/caformer/'
            'caformer_b36_384_in21ft1k.pth',
            88.1,
            72.2,
        ),
        (
            'randformer_m36.sail_in1k',
            'https://huggingface.co/sail/dl/resolve/main/randformer/randformer_m36.pth',
            81.2,
            9.0,
        ),
        (
            'poolformer_s36.sail_in1k',
            'https://github.com/sail-sg/poolformer/releases/download/v1.0/'
            'poolformer_s36.pth.tar',
            81.4,
            5.0,
        ),
    ],
)
def test_some_rows(name, url, top1, macs):
    row = ZOO[name]
    assert (row.sources[0].url, row.top1, row.macs) == (url, top1, macs)


def test_published_parameters_are_the_models():
    """To the last printed digit, for the smallest member of every family."""
    seen = 0
    for family in FAMILIES:
        rows = [row for row in ZOO.values() if row.family == family.family.lower()]
        row = min(rows, key=lambda row: row.params)
        with torch.device('meta'):
            model = mmmeta.create_model(row.arch)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
        digits = 0 if row.params == int(row.params) else 1
        assert round(count, digits) == row.params, (row.name, count)
        seen += 1
    assert seen == 7


def test_list_models():
    assert list_models('*former_s12') == [
        'identityformer_s12',
        'poolformer_s12',
        'randformer_s12',
    ]
    assert mmmeta.list_models() == sorted(ARCHS)
    assert list_models('caformer_s18*', pretrained=True)[0] == 'caformer_s18.sail_in1k'
    assert list_models('nothing*') == []


def test_default_tag_and_nearest():
    assert find('caformer_s18').tag == 'sail_in1k'
    assert find('uniformer_small').tag == 'sensex_in1k'
    with pytest.raises(CheckpointError, match=r'nearest:.*poolformer_s12'):
        find('poolfomer_s12')


def test_names_need_no_torch():
    code = 'import mmmeta.weights.zoo, sys; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


class TestScheme:
    @pytest.fixture
    def cached(self, tmp_path, monkeypatch, golden):
        """A synthetic poolformer_s12 in place of the download."""
        monkeypatch.setenv('MMMETA_HOME', str(tmp_path))
        state = {
            k: v
            for k, v in golden('poolformer_s12').checkpoint().items()
            if k[:5] not in ('norm0', 'norm2', 'norm4', 'norm6')
        }
        torch.save(state, tmp_path / 'poolformer_s12.pth.tar')
        return state

    @pytest.mark.parametrize('name', ['poolformer_s12', 'poolformer_s12.sail_in1k'])
    def test_init_cfg(self, cached, name):
        cfg = dict(type='Pretrained', checkpoint=f'mmmeta://{name}')
        module = PoolFormer('s12', init_cfg=cfg)
        module.init_weights()
        want = cached['network.1.proj.weight']
        assert torch.equal(module.stages[1].downsample.conv.weight, want)

    def test_create_model(self, cached):
        for model in (
            mmmeta.create_model('poolformer_s12', pretrained=True),
            mmmeta.create_model('poolformer_s12.sail_in1k'),
            mmmeta.create_model('poolformer_s12', checkpoint='mmmeta://poolformer_s12'),
        ):
            assert torch.equal(model.head.fc.weight, cached['head.weight'])

    def test_mmengine_loads_it_into_anything(self, cached):
        name = 'mmmeta://poolformer_s12'
        want = cached['network.1.proj.weight']
        backbone, model = PoolFormer('s12'), mmmeta.create_model('poolformer_s12')
        mmengine_load(backbone, name)
        assert torch.equal(backbone.stages[1].downsample.conv.weight, want)
        mmengine_load(model, name, strict=True)
        assert torch.equal(model.head.fc.weight, cached['head.weight'])
        state = CheckpointLoader.load_checkpoint(name)['state_dict']
        assert torch.equal(state['backbone.norm.weight'], cached['norm.weight'])

    def test_mmengine_runs_no_code_either(self, tmp_path, monkeypatch):
        import os

        class Payload:
            def __reduce__(self):
                return os.system, (f'touch {tmp_path / "ran"}',)

        monkeypatch.setenv('MMMETA_HOME', str(tmp_path))
        torch.save({'x': Payload()}, tmp_path / 'poolformer_s12.pth.tar')
        with pytest.raises(CheckpointError, match='rejected'):
            CheckpointLoader.load_checkpoint('mmmeta://poolformer_s12')
        assert not (tmp_path / 'ran').exists()

    def test_known_sha_is_checked_in_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv('MMMETA_HOME', str(tmp_path))
        source = ZOO['poolformer_s12.sail_in1k'].sources[1]
        (tmp_path / source.file).write_bytes(b'x')
        digest = hashlib.sha256(b'x').hexdigest()
        with pytest.raises(CheckpointError, match=f'{digest}, expected f8d83051'):
            CheckpointLoader.load_checkpoint('mmmeta://poolformer_s12')
