"""Files: what is read, what is rejected, and the messages."""

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.reading import read_file, read_state_dict, unwrap
from mmmeta.weights.scheme import load_from_local


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {'a.weight': torch.randn(3, 2), 'a.bias': torch.randn(3)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one
    )


class Payload:
    """The payload of a hostile file: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class Thing:
    """An object that is not plain data."""


@pytest.mark.parametrize('suffix', ['.pth', '.pth.tar', '.bin', '.anything'])
def test_torch_files(tmp_path, state, suffix):
    path = tmp_path / f'x{suffix}'
    torch.save(state, path)
    assert same(read_state_dict(path), state)


def test_old_torch_format(tmp_path, state):
    path = tmp_path / 'x.pth'
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert same(read_state_dict(path), state)


@pytest.mark.parametrize('name', ['x.safetensors', 'x.pth'])
def test_safetensors_by_content(tmp_path, state, name):
    from safetensors.torch import save_file

    save_file(state, tmp_path / name)
    assert same(read_state_dict(tmp_path / name), state)


@pytest.mark.parametrize(
    'wrapper', ['state_dict', 'model', 'module', 'model_ema', 'state_dict_ema']
)
def test_wrappers(tmp_path, state, wrapper):
    path = tmp_path / 'x.pth'
    torch.save({wrapper: OrderedDict(state), 'epoch': 3}, path)
    assert same(read_state_dict(path), state)
    assert same(unwrap({'model': {wrapper: state}}, 'x'), state)


def test_average_first_unless_told(state):
    average = {k: v + 1 for k, v in state.items()}
    both = {'state_dict': state, 'state_dict_ema': average}
    assert same(unwrap(both, 'x'), average)
    assert same(unwrap(both, 'x', ema=False), state)


def test_training_arguments_are_let_through(tmp_path, state):
    path = tmp_path / 'x.pth'
    args = argparse.Namespace(lr=0.1, opt='adamw', betas=(0.9, 0.999))
    torch.save({'model': state, 'args': args, 'best': np.float64(0.5)}, path)
    assert same(read_state_dict(path), state)
    assert read_file(path)['args'].opt == 'adamw'


def test_file_written_by_a_runner(tmp_path, monkeypatch):
    """Log buffers, scheduler and optimizer state, EMA: everything MMEngine saves."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.utils.data import Dataset

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x, mode='tensor'):
            loss = self.fc(x).square().mean()
            return {'loss': loss} if mode == 'loss' else loss

    class Data(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.ones(2) * i

    def step(self, data, optim_wrapper):
        loss = self(torch.stack(list(data)), mode='loss')
        parsed, logs = self.parse_losses(loss)
        optim_wrapper.update_params(parsed)
        return logs

    monkeypatch.setattr(Model, 'train_step', step)
    runner = Runner(
        Model(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=Data(), batch_size=2, sampler=dict(type='DefaultSampler')
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.1), clip_grad=dict(max_norm=1)
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
            dict(type='MultiStepLR', milestones=[1]),
        ],
        custom_hooks=[dict(type='EMAHook')],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        randomness=dict(seed=0),
        experiment_name='reading',
    )
    runner.train()
    path = tmp_path / 'epoch_1.pth'
    content = read_file(path)
    assert {'meta', 'message_hub', 'optimizer', 'param_schedulers'} <= set(content)
    history = content['message_hub']['log_scalars']['train/loss']
    assert len(history.state['_log_history']) == 2
    assert set(read_state_dict(path)) == {'fc.weight', 'fc.bias'}

    content = load_from_local(str(path))  # MMEngine's own class, as resumed
    history = content['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer
    assert (
        history.statistics('max') == max(history.data[0]) and len(history.data[0]) == 2
    )


def test_code_is_not_run(tmp_path, state):
    path, made = tmp_path / 'x.pth', tmp_path / 'payload-ran'
    torch.save({'state_dict': state, 'meta': Payload(made)}, path)
    with pytest.raises(CheckpointError, match=r'rejected.*(posix|os)\.system'):
        read_state_dict(path)
    assert not made.exists()
    # The payload is a real one: without the safe reading it runs.
    torch.load(path, weights_only=False)
    assert made.exists()


def test_code_in_a_plain_pickle_is_not_run(tmp_path):
    path, made = tmp_path / 'x.pth', tmp_path / 'payload-ran'
    path.write_bytes(pickle.dumps({'a': Payload(made)}))
    with pytest.raises(CheckpointError, match=r'x\.pth'):
        read_state_dict(path)
    assert not made.exists()


def test_getattr_is_not_let_through(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save({'a': _Getattr()}, path)
    with pytest.raises(CheckpointError, match=r'rejected.*builtins\.getattr'):
        read_state_dict(path)
    with pytest.raises(CheckpointError, match=r'rejected.*builtins\.getattr'):
        load_from_local(str(path))


class _Getattr:
    def __reduce__(self):
        return getattr, (torch.Tensor, 'sum')


def test_objects_are_refused(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(Thing(), path)
    with pytest.raises(CheckpointError, match=r'rejected.*Thing'):
        read_state_dict(path)


def _truncated_zip(path):
    torch.save({'a': torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _truncated_safetensors(path):
    from safetensors.torch import save_file

    save_file({'a': torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _directory(path):
    path.mkdir()


def _directory_with_files(path):
    path.mkdir()
    (path / 'epoch_12.pth').touch()


@pytest.mark.parametrize(
    ('name', 'make', 'words'),
    [
        ('x.pth', lambda p: None, 'does not exist.*mmmeta://'),
        ('x.pth', _directory, 'is a directory'),
        ('x.pth', _directory_with_files, r'did you mean one of epoch_12\.pth'),
        ('x.pth', lambda p: p.touch(), 'is empty'),
        ('x.pth', _truncated_zip, 'truncated'),
        ('x.safetensors', _truncated_safetensors, r'damaged \.safetensors'),
        ('x.safetensors', lambda p: p.write_bytes(b'\0' * 100), r'damaged'),
        (
            'x.pth',
            lambda p: p.write_text('\n<!DOCTYPE html><html>Sign in</html>'),
            'is a web page',
        ),
        (
            'x.pth',
            lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\noid'),
            'Git LFS pointer',
        ),
        (
            'x.pth',
            lambda p: p.write_bytes(os.urandom(3000)),
            'damaged or not a checkpoint',
        ),
        ('x.pth', lambda p: torch.save([torch.ones(2)], p), 'contains a list'),
        ('x.pth', lambda p: torch.save(torch.ones(2), p), 'contains a Tensor'),
        ('x.pth', lambda p: torch.save({}, p), 'is empty'),
        (
            'x.pth',
            lambda p: torch.save({'a': torch.ones(2), 'epoch': 3}, p),
            r"not tensors: 'epoch' \(int\)",
        ),
        (
            'x.pth',
            lambda p: torch.save({'state_dict': {'a': np.ones(2)}}, p),
            r"not tensors: 'a' \(ndarray\)",
        ),
    ],
)
def test_bad_files(tmp_path, name, make, words):
    path = tmp_path / name
    make(path)
    with pytest.raises(CheckpointError, match=f'(?s){words}') as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


def test_no_permission(tmp_path, state):
    path = tmp_path / 'x.pth'
    torch.save(state, path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # a user without root's rights
    try:
        with pytest.raises(CheckpointError, match='permission denied'):
            read_state_dict(path)
    finally:
        os.seteuid(user)


def test_lists_in_messages_are_short():
    assert first_few('abc') == 'a, b, c'
    assert first_few('abcdef') == 'a, b, c, d and 2 more'
