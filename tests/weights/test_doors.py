"""Every way by which MMEngine comes to a checkpoint: none runs code in it."""

import functools
import http.server
import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import checkpoint as theirs
from mmengine.runner import load_checkpoint
from torch import nn

from mmmeta.weights import scheme
from mmmeta.weights.errors import CheckpointError


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / 'ran'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of the folder; what is downloaded goes into another."""
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'cache'))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def by_table(name: str, prefix: str):
    def door(path: Path, address: str, monkeypatch) -> str:
        table = {'net': f'{address}/{path.name}'}
        monkeypatch.setitem(scheme.LOADERS, prefix, None)  # put back afterwards
        loader = scheme._of_table(lambda: table)
        monkeypatch.setitem(theirs.CheckpointLoader._schemes, prefix, loader)
        assert callable(getattr(theirs, name))
        return f'{prefix}net'

    return door


def by_home(path: Path, address: str, monkeypatch) -> str:
    monkeypatch.setenv('MMENGINE_HOME', str(path.parent))
    (path.parent / 'open_mmlab.json').write_text(json.dumps({'mine': path.name}))
    return 'open-mmlab://mine'


def by_ceph(path: Path, address: str, monkeypatch) -> str:
    backend = SimpleNamespace(get=lambda name: path.read_bytes())
    monkeypatch.setattr(scheme, 'get_file_backend', lambda *_, **__: backend)
    return 's3://bucket/x.pth'


def by_pavi(path: Path, address: str, monkeypatch) -> str:
    def download(to: str) -> None:
        Path(to).write_bytes(path.read_bytes())

    model = SimpleNamespace(name='x.pth', download=download)
    cloud = SimpleNamespace(get=lambda name: model)
    monkeypatch.setitem(sys.modules, 'pavi', SimpleNamespace(modelcloud=cloud))
    return 'pavi://x.pth'


DOORS = {
    'path': lambda path, *_: str(path),
    'http': lambda path, address, _: f'{address}/{path.name}',
    'open-mmlab in a home': by_home,
    'openmmlab': by_table('get_external_models', 'openmmlab://'),
    'torchvision': by_table('get_torchvision_models', 'torchvision://'),
    'modelzoo': by_table('get_torchvision_models', 'modelzoo://'),
    'mmcls': by_table('get_mmcls_models', 'mmcls://'),
    's3': by_ceph,
    'pavi': by_pavi,
}


@pytest.mark.parametrize('door', DOORS)
def test_no_door_runs_code(door, tmp_path, mark, server, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    state = {'backbone.a': torch.ones(2)}
    torch.save({'state_dict': state, 'meta': Payload(mark)}, tmp_path / 'bad.pth')
    torch.save({'state_dict': state}, tmp_path / 'good.pth')
    name = DOORS[door](tmp_path / 'bad.pth', server, monkeypatch)
    with pytest.raises(CheckpointError, match='was rejected'):
        theirs.CheckpointLoader.load_checkpoint(name)
    assert not mark.exists()
    name = DOORS[door](tmp_path / 'good.pth', server, monkeypatch)
    content = theirs.CheckpointLoader.load_checkpoint(name)
    (value,) = content['state_dict'].values()
    assert value.tolist() == [1, 1]


def test_all_of_mmengines_schemes_are_ours():
    for prefix, loader in theirs.CheckpointLoader._schemes.items():
        assert loader.__module__ == scheme.__name__, prefix


def test_names_that_mmengine_does_not_know():
    with pytest.raises(CheckpointError, match=r'torchvision://resnet51.*resnet50'):
        theirs.CheckpointLoader.load_checkpoint('torchvision://resnet51')
    with pytest.raises(CheckpointError, match='no-such-net'):
        theirs.CheckpointLoader.load_checkpoint('open-mmlab://no-such-net')


def test_a_config_in_a_checkpoint_is_not_run(tmp_path, mark):
    """MMEngine's Runner executes it when it resumes."""
    meta = dict(epoch=1, iter=1, config=f'open({str(mark)!r}, "w")')
    torch.save({'state_dict': {}, 'meta': meta}, tmp_path / 'x.pth')
    content = theirs.CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
    assert content['meta'] == dict(epoch=1, iter=1)


@pytest.mark.parametrize('prefix', [None, 'neck.'])
def test_pretrained_of_any_module_runs_no_code(tmp_path, mark, prefix):
    state = {'neck.fc.weight': torch.ones(1, 1), 'neck.fc.bias': torch.ones(1)}
    torch.save({'state_dict': state, 'x': Payload(mark)}, tmp_path / 'bad.pth')

    class Neck(BaseModule):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            self.fc = nn.Linear(1, 1)

    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'bad.pth'))
    cfg |= dict(prefix=prefix) if prefix else {}
    with pytest.raises(CheckpointError, match='was rejected'):
        Neck(init_cfg=cfg).init_weights()
    torch.save({'state_dict': state}, tmp_path / 'bad.pth')
    if prefix:
        neck = Neck(init_cfg=cfg)
        neck.init_weights()
        assert neck.fc.weight.item() == neck.fc.bias.item() == 1
    assert not mark.exists()


def test_keys_that_are_no_names(tmp_path):
    torch.save({'state_dict': {0: torch.ones(1)}}, tmp_path / 'x.pth')
    with pytest.raises(
        CheckpointError, match=r'x\.pth has keys that are not strings: 0'
    ):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / 'x.pth'))
