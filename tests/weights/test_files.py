"""Files that are damaged or something else, odd paths, and where tensors go."""

import bz2
import gzip
import lzma
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.reading import read_state_dict, unwrap


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {'a.weight': torch.randn(3, 2), 'a.bias': torch.randn(3)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one
    )


def _archive(kind):
    def make(path):
        (path.parent / 'inside.txt').write_text('text' * 300)
        name = shutil.make_archive(str(path) + '-', kind, path.parent, 'inside.txt')
        shutil.move(name, path)

    return make


def _compressed(module):
    return lambda path: path.write_bytes(module.compress(b'weights' * 100))


def _script(path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)


def _changed(old, new, **options):
    """Write a file and put other bytes in, as transfers and enemies do."""

    def make(path):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({'a': torch.arange(1000)}, path, **options)
        finally:
            torch.serialization.set_crc32_options(True)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return make


def _deep(path):
    content = {}
    content['state_dict'] = content
    torch.save(content, path)


OLD = dict(_use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (_archive('zip'), r'is a zip archive of other files \(inside\.txt\)\. Unpack'),
        (_archive('tar'), 'is a tar archive. Unpack'),
        (_compressed(gzip), 'is a gzip archive. Unpack'),
        (_compressed(bz2), 'is a bzip2 archive'),
        (_compressed(lzma), 'is an xz archive'),
        (lambda p: p.write_bytes(b"7z\xbc\xaf'\x1c" + bytes(99)), 'is a 7z archive'),
        (lambda p: p.write_text('{"weight_map": {}}'), 'is a JSON file'),
        (lambda p: p.write_text('Access denied\n'), 'is a text file'),
        (lambda p: np.save(p.open('wb'), np.ones(3)), 'is a NumPy array'),
        (_script, r'is a TorchScript archive.*torch\.jit\.load'),
        (_changed(b'M\xe8\x03\x85', b'M\xe8\x7f\x85'), 'damaged.*than its storage'),
        (_changed(b'M\xe8\x03', b'M\xe8\x7f', **OLD), 'damaged'),
        (lambda p: p.write_bytes(pickle.dumps({'a': 1})), 'damaged'),
        (_deep, 'not tensors'),
        (lambda p: p.write_bytes(b'\xff' * 8 + b'{"a": 1}'), r'\.safetensors file'),
        (lambda p: p.write_bytes(b'\x08' + bytes(7) + b'{"a": 1}'), 'safetensors'),
        (lambda p: torch.save({1: torch.ones(1)}, p), 'keys that are not strings: 1'),
        (lambda p: torch.save({b'a': torch.ones(1)}, p), "not strings: b'a'"),
        (lambda p: torch.save({'state_dict_ema': {}, 'model': {}}, p), 'is empty'),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, make, words):
    path = tmp_path / 'x.pth'
    make(path)
    with pytest.raises(CheckpointError, match=f'(?s){words}') as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('old', [False, True])
def test_files_cut_off_anywhere(tmp_path, old):
    path = tmp_path / 'x.pth'
    torch.save({'a': torch.ones(100)}, path, _use_new_zipfile_serialization=not old)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r'x\.pth'):
            read_state_dict(path)


def test_checksums_that_were_never_computed(tmp_path, state):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / 'x.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_state_dict(tmp_path / 'x.pth'), state)


def test_an_empty_average_is_passed_over(state):
    for empty in ({}, {'module': {}}, {'decay': 0.9}):
        assert same(unwrap({'state_dict_ema': empty, 'state_dict': state}, 'x'), state)
    nested = {'model': {'module': {'state_dict': state}}}
    assert same(unwrap(nested, 'x'), state)


@pytest.mark.parametrize('kind', ['torch', 'old', 'safetensors'])
@pytest.mark.parametrize(
    ('map_location', 'device'),
    [
        (None, 'cpu'),
        ('cpu', 'cpu'),
        (torch.device('cpu'), 'cpu'),
        ({'cpu': 'cpu'}, 'cpu'),
        ({'cuda:0': 'cpu'}, 'cpu'),
        (lambda storage, location: storage, 'cpu'),
        (lambda storage, location: None, 'cpu'),
        ('meta', 'meta'),
        (torch.device('meta'), 'meta'),
        ({'cpu': 'meta'}, 'meta'),
    ],
)
def test_every_form_of_map_location(tmp_path, state, kind, map_location, device):
    from safetensors.torch import save_file

    path = tmp_path / 'x'
    if kind == 'safetensors':
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == 'torch')
    found = read_state_dict(path, map_location=map_location)
    assert {value.device.type for value in found.values()} == {device}
    assert all(found[key].shape == state[key].shape for key in state)
    if device == 'cpu':
        assert same(found, state)


@pytest.mark.parametrize('kind', ['torch', 'old', 'safetensors'])
@pytest.mark.parametrize('map_location', ['cuda:63', 'gpu', {'cpu': 'cuda:63'}])
def test_places_that_are_not_there(tmp_path, state, kind, map_location):
    from safetensors.torch import save_file

    path = tmp_path / 'x'
    if kind == 'safetensors':
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == 'torch')
    with pytest.raises(CheckpointError, match='cannot be moved to map_location'):
        read_state_dict(path, map_location=map_location)


def test_odd_paths(tmp_path, state, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in (b'a b.pth', 'gr\u00fc\u00df.pth'.encode(), b'caf\xe9.pth', b'x.pth'):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, 'wb') as file:
            torch.save(state, file)
        for form in (path, os.fsdecode(path), Path(os.fsdecode(path))):
            assert same(read_state_dict(form), state)
    assert same(read_state_dict('~/x.pth'), state)
    assert same(read_state_dict(f'{tmp_path}/x.pth/'), state)  # as Path has it
    (tmp_path / 'link').symlink_to('x.pth')
    assert same(read_state_dict(tmp_path / 'link'), state)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'loop').symlink_to('loop')
    (tmp_path / 'file').touch()
    (tmp_path / 'nowhere').symlink_to('gone')
    for path, words in (
        (tmp_path / 'pipe', 'is a pipe or a device'),  # and is not waited for
        ('/dev/zero', 'is a pipe or a device'),
        (tmp_path / 'loop', 'cannot be read'),
        (tmp_path / 'nowhere', 'does not exist'),
        (tmp_path / 'file/x.pth', 'cannot be read: Not a directory'),
        (tmp_path / ('x' * 300), 'cannot be read: File name too long'),
        ('a\0b', 'is not a path'),
        ('~nobody-of-that-name/x.pth', 'there is no such user'),
        (b'caf\xe9.pth', r'caf\\xe9\.pth does not exist'),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_state_dict(path)
