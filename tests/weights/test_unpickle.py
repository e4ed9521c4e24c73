"""What a checkpoint may hold beside weights, and that nothing else is built."""

import argparse
import collections
import datetime
import decimal
import io
import os
import pickle
import random
import threading
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.reading import PLAIN, read_file, read_stream
from mmmeta.weights.scheme import load_from_local
from mmmeta.weights.unpickle import PLAIN_DATA, Pickle, RefusedError

DATUM = {
    'plain': [1, 2.5, None, True, 'text\udc80', b'abc', b'', (1,), 1j, 2**400],
    'bytearray': bytearray(b'zz'),
    'sets': [{1, 2}, frozenset([3])],
    'slices': [slice(1, 2), range(4)],
    'ordered': collections.OrderedDict(x=1),
    'default': collections.defaultdict(list, a=[1]),
    'counter': collections.Counter('aab'),
    'deque': collections.deque([1, 2], 5),
    'time': datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    'delta': [datetime.timedelta(3), datetime.date(2020, 1, 2)],
    'decimal': decimal.Decimal('1.5'),
    'path': PurePosixPath('a/b'),
    'namespaces': [argparse.Namespace(lr=0.1), SimpleNamespace(a=1)],
    'arrays': [np.arange(6.0).reshape(2, 3), np.arange(3, dtype='>i4')],
    'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'words': np.array(['ab', 'c']),
    'scalars': [np.float64(2), np.bool_(True), np.int32(4), np.float16(3)],
    'dtype': np.dtype('float32'),
    'random': [random.getstate(), np.random.RandomState(0).get_state()],
    'generator': np.random.default_rng(0).bit_generator.state,
}


def unpickled(content: bytes):
    return Pickle(PLAIN_DATA).load(io.BytesIO(content))


def same(found, wanted) -> bool:
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, np.ndarray):
        own = wanted.dtype.newbyteorder('=')  # as NumPy itself reads it
        return found.dtype.newbyteorder('=') == own and np.array_equal(found, wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(
            same(found[key], wanted[key]) for key in wanted
        )
    return found == wanted


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('name', DATUM)
def test_plain_data_comes_back_as_it_was(name, protocol):
    assert same(unpickled(pickle.dumps(DATUM[name], protocol)), DATUM[name])


class Reduced:
    """Pickles as a call of its function."""

    def __init__(self, function, *args, state=None) -> None:
        self.value = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.value


ATTACKS = {
    'system': lambda mark: Reduced(os.system, f'touch {mark}'),
    'eval': lambda mark: Reduced(eval, f'open({str(mark)!r}, "w")'),
    'getattr': lambda mark: Reduced(getattr, torch.Tensor, 'sum'),
    'codec': lambda mark: Reduced(__import__('_codecs').encode, 'a', 'idna'),
    'a function as a type': lambda mark: Reduced(
        torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (f'touch {mark}',)
    ),
    'a structured dtype': lambda mark: np.zeros(2, 'f4, i4'),
    'flags of a dtype': lambda mark: Reduced(
        np.dtype, 'V8', False, True, state=(3, '|', None, None, None, 8, 1, 63)
    ),
    'objects in an array': lambda mark: np.array([object], dtype=object),
    'a state of a class': lambda mark: Reduced(
        collections.OrderedDict, state=(None, {'keys': len})
    ),
    'much memory': lambda mark: Reduced(list, Reduced(range, 10**12)),
    'a torch load': lambda mark: Reduced(torch.load, str(mark)),
    'import': lambda mark: Reduced(__import__, 'antigravity'),
}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('attack', ATTACKS)
def test_what_is_no_data_is_refused(tmp_path, attack, zipped):
    mark, path = tmp_path / 'ran', tmp_path / 'x.pth'
    content = {'state_dict': {'a': torch.ones(2)}, 'meta': ATTACKS[attack](mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for read in (read_file, lambda p: load_from_local(str(p))):
        with pytest.raises(CheckpointError, match=r'x\.pth (was rejected|is damaged)'):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    'content',
    [
        b'cos\nsystem\n(S"touch ran"\ntR.',  # protocol 0
        b'(S"touch ran"\nios\nsystem\n.',  # an instance
        b'(cos\nsystem\nS"touch ran"\no.',  # an object
        b'\x80\x02\x82\x01.',  # an extension
        b'\x80\x02Pid\n.',  # a reference
        b'\x80\x02cnumpy\nndarray\n\x8a\x08' + b'\x7f' * 8 + b'\x85R.',  # 9e18 numbers
        # Attributes of a class, for the whole process.
        b'\x80\x02cargparse\nNamespace\nN}X\x05\x00\x00\x00ownedK\x01s\x86b.',
    ],
)
def test_instructions_of_pickles_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RefusedError, pickle.UnpicklingError, ValueError)):
        unpickled(content)
    assert not list(tmp_path.iterdir())
    assert not hasattr(argparse.Namespace, 'owned')


def test_a_state_hides_no_method():
    saved = pickle.dumps(Reduced(collections.OrderedDict, state={'keys': str, 'b': 1}))
    assert vars(unpickled(saved)) == {}


def test_a_log_changes_no_statistics(tmp_path):
    log = HistoryBuffer([1.0], [1])
    vars(log).update(statistics_methods={'mean': HistoryBuffer.max}, mean=3)
    torch.save({'state_dict': {}, 'log': log}, tmp_path / 'x.pth')
    read = load_from_local(str(tmp_path / 'x.pth'))['log']
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean
    assert read.mean() == 1


@pytest.mark.parametrize('name', ['', '_NO'])
@pytest.mark.parametrize('zipped', [True, False])
def test_environment_variables_change_nothing(tmp_path, monkeypatch, name, zipped):
    monkeypatch.setenv(f'TORCH_FORCE{name}_WEIGHTS_ONLY_LOAD', '1')
    path = tmp_path / 'x.pth'
    content = dict(a=torch.ones(2), best=np.float64(1))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert read_file(path)['best'] == 1


def round_trip(value, **options):
    file = io.BytesIO()
    torch.save({'value': value}, file, **options)
    file.seek(0)
    return read_stream(file, 'x', None, PLAIN)['value']


TENSORS = [
    lambda: torch.arange(12.0).view(3, 4).t(),
    lambda: torch.arange(12.0)[2:5],
    lambda: torch.ones(1).expand(5),
    lambda: torch.empty(0, 3),
    lambda: torch.tensor(3),
    lambda: torch.tensor([1 + 1j]).conj(),
    lambda: torch.ones(2, dtype=torch.bfloat16),
    lambda: nn.Parameter(torch.ones(2)),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.eye(3).to_sparse_csr(),
]
# PyTorch's old format has no storages of these.
NEW_DTYPES = [
    lambda: torch.ones(2).to(torch.float8_e4m3fn),
    lambda: torch.ones(3, dtype=torch.uint16),
]


@pytest.mark.parametrize(
    ('make', 'zipped'),
    [(make, zipped) for make in TENSORS for zipped in (True, False)]
    + [(make, True) for make in NEW_DTYPES],
)
def test_tensors_come_back_as_they_were(make, zipped):
    value = make()
    found = round_trip(value, _use_new_zipfile_serialization=zipped)
    assert type(found) is type(value)
    assert (found.dtype, found.shape, found.layout) == (
        value.dtype,
        value.shape,
        value.layout,
    )
    if value.layout is torch.strided:
        assert found.stride() == value.stride()
    plain = [
        v.to_dense() if v.layout is not torch.strided else v for v in (found, value)
    ]
    assert torch.equal(*(v.resolve_conj().to(torch.complex64) for v in plain))


@pytest.mark.filterwarnings('ignore:Validating sparse')
def test_indices_of_sparse_tensors_are_checked():
    value = torch.sparse_coo_tensor(
        [[9]], [1.0], (3,), check_invariants=False, is_coalesced=True
    )
    with pytest.raises(CheckpointError, match='damaged'):
        round_trip(value)


def test_tensors_share_memory_as_before():
    base = torch.zeros(4)
    found = round_trip([base, base.view(2, 2)])
    found[0][0] = 1
    assert found[1][0, 0] == 1


def test_versions_of_modules_are_kept():
    state = nn.Sequential(nn.BatchNorm2d(2)).state_dict()
    assert round_trip(state)._metadata == state._metadata


SCHEDULERS = {
    'ConstantLR': {},
    'CosineAnnealingLR': dict(T_max=5),
    'ExponentialLR': dict(gamma=0.9),
    'LinearLR': {},
    'MultiStepLR': dict(milestones=[1]),
    'OneCycleLR': dict(eta_max=1.0, total_steps=9),
    'PolyLR': {},
    'ReduceOnPlateauLR': dict(monitor='loss'),
    'StepLR': dict(step_size=2),
    'CosineRestartLR': dict(periods=[5], restart_weights=[1], eta_min=0.0),
}


@pytest.mark.parametrize('protocol', [2, 4])
def test_bookkeeping_of_mmengine_is_read(tmp_path, protocol):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    states = {}
    for name, options in SCHEDULERS.items():
        states[name] = PARAM_SCHEDULERS.build(
            dict(type=name, optimizer=optimizer, **options)
        ).state_dict()
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(
        meta=dict(time=DATUM['time'], dataset_meta=ConfigDict(classes=('a',))),
        message_hub=dict(log_scalars=collections.OrderedDict(loss=log)),
        optimizer=dict(optimizer.state_dict(), loss_scaler=dict(scale=65536.0)),
        param_schedulers=states,
        state_dict=model.state_dict(),
        rng=[torch.get_rng_state(), np.random.get_state()],
    )
    path = tmp_path / 'x.pth'
    torch.save(content, path, pickle_protocol=protocol)
    found = load_from_local(str(path))
    assert found['meta'] == content['meta']
    assert type(found['meta']['dataset_meta']) is ConfigDict
    assert found['param_schedulers'] == states
    assert found['optimizer']['loss_scaler'] == {'scale': 65536.0}
    for key, one in optimizer.state_dict()['state'].items():
        other = found['optimizer']['state'][key]
        assert all(torch.equal(one[name], other[name]) for name in one)
    read = found['message_hub']['log_scalars']['loss']
    assert type(read) is HistoryBuffer
    assert read.mean() == 1.5 and read.statistics('max') == 2
    assert read_file(path)['message_hub']['log_scalars']['loss'].state[
        '_log_history'
    ].tolist() == [1, 2]


def test_threads_take_nothing_from_each_other(tmp_path):
    good, bad = tmp_path / 'good.pth', tmp_path / 'bad.pth'
    content = {'state_dict': {'a': torch.ones(3)}, 'args': argparse.Namespace(lr=1)}
    torch.save({**content, 'best': np.float64(1)}, good)
    torch.save({**content, 'meta': Reduced(os.system, f'touch {tmp_path}/ran')}, bad)
    before = torch.serialization.get_safe_globals()
    start = threading.Barrier(24)
    results = []

    def load(index: int) -> None:
        start.wait()
        # What others do with PyTorch's list, in the middle of it.
        with torch.serialization.safe_globals(
            [np.ndarray, np.dtype, argparse.Namespace]
        ):
            try:
                read = read_file if index % 2 else lambda p: load_from_local(str(p))
                results.append((index, read(bad if index % 4 == 3 else good)['best']))
            except CheckpointError as error:
                results.append((index, str(error)))

    threads = [threading.Thread(target=load, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 24
    for index, result in results:
        assert ('was rejected' in result) if index % 4 == 3 else result == 1
    assert not (tmp_path / 'ran').exists()
    assert set(torch.serialization.get_safe_globals()) == set(before)
