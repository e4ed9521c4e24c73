"""Checkpoints of runs, by the tools: what is loaded, what is said, where it stops."""

import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmmeta.errors import InvalidValueError, UserError
from mmmeta.hosts.checkpoints import watch
from mmmeta.hosts.config import load_config
from mmmeta.weights import CheckpointError

# Options by which a training changes nothing.
STILL = ('optim_wrapper.optimizer.lr=0.0', 'param_scheduler=None')
ROOT = Path(__file__).resolve().parents[2]


@MODELS.register_module()
class TinyNeck(BaseModule):
    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Linear(4, 4)


@MODELS.register_module()
class TinyDetector(BaseModel):
    """As much of a detector as loading and training see."""

    def __init__(self, classes: int = 3, width: int = 4, **kwargs) -> None:
        neck = kwargs.pop('neck', dict(type='TinyNeck'))
        super().__init__(**kwargs)
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.neck = MODELS.build(neck)
        self.bbox_head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes))
        self.register_buffer('grid', torch.zeros(2), persistent=False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.backbone(torch.stack(inputs)).mean((2, 3))
        scores = self.bbox_head(self.neck.fc(x[:, :4]))
        return {'loss': scores.square().mean()} if mode == 'loss' else [scores]


@DATASETS.register_module()
class TinyData(torch.utils.data.Dataset):
    metainfo = {'classes': ('a', 'b')}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.full((3, 2, 2), index / 4))


@METRICS.register_module()
class TinyMetric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        return dict(count=len(results))


CONFIG = """
default_scope = 'mmengine'
model = dict(type='TinyDetector')
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='TinyData'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='TinyData'),
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='TinyMetric')
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))
param_scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False)]
custom_hooks = [dict(type='EMAHook')]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1),
                     logger=dict(type='LoggerHook', interval=1))
randomness = dict(seed=0)
experiment_name = __import__('uuid').uuid4().hex  # MMEngine's are of a second
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with the config c.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'c.py').write_text(CONFIG)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return tmp_path


def tool(monkeypatch, name: str, *args: str) -> None:
    """Call a tool as users do, with the config c.py, in this process."""
    monkeypatch.setattr('sys.argv', [name, 'c.py', *args, '--work-dir', 'wd'])
    runpy.run_path(str(ROOT / 'tools' / name))['main']()


@pytest.fixture
def train(monkeypatch):
    return lambda *args: tool(monkeypatch, 'train.py', *args)


@pytest.fixture
def test(monkeypatch):
    return lambda *args: tool(monkeypatch, 'test.py', *args)


def model(**kwargs) -> TinyDetector:
    torch.manual_seed(1)
    return TinyDetector(**kwargs)


def saved(change=None, name: str = 'm.pth', **kwargs) -> dict[str, Tensor]:
    """Write a checkpoint, its weights changed, and return them."""
    state = model(**kwargs).state_dict()
    for key in list(state):
        new = change(key, state[key]) if change else state[key]
        if new is None:
            del state[key]
        else:
            state[key] = new
    torch.save({'state_dict': state, 'meta': {}}, name)
    return state


def without(*parts: str):
    return lambda key, value: None if key.startswith(parts) else value


def content(name: str) -> dict:
    return torch.load(name, weights_only=False)


class TestTesting:
    def test_all_that_fits(self, test):
        saved()
        test('m.pth')

    @pytest.mark.parametrize(
        ('options', 'words'),
        [
            (dict(change=without('neck')), r'2 missing: neck\.fc\.weight, neck\.fc\.b'),
            (
                dict(change=without('bbox_head.1.bias')),
                r'1 missing: bbox_head\.1\.bias',
            ),
            (
                dict(classes=5),
                r'2 wrong: bbox_head\.1\.weight has shape \(5, 4\), expected \(3, 4\)',
            ),
            (dict(width=8), r'wrong: backbone\.0\.weight has shape \(8, 3, 1, 1\)'),
        ],
    )
    def test_what_does_not_fit_is_one_error(self, test, said, options, words):
        saved(**options)
        with pytest.raises(CheckpointError, match=f'm.pth does not fit.*{words}'):
            test('m.pth')
        assert not [line for line in said if 'do not match' in line]

    def test_what_is_too_much(self, test):
        state = saved()
        torch.save({'state_dict': {**state, 'mask_head.a': torch.ones(1)}}, 'm.pth')
        with pytest.raises(CheckpointError, match=r'1 unexpected: mask_head\.a'):
            test('m.pth')

    def test_what_need_not_be_there(self, test):
        state = saved(lambda k, v: None if 'num_batches' in k else v)
        more = {
            'grid': torch.zeros(2),  # a buffer that the model does not save
            'data_preprocessor.mean': torch.zeros(3),
            'teacher.backbone.0.weight': torch.zeros(3),
        }
        torch.save({'state_dict': {**state, **more}}, 'm.pth')
        test('m.pth')

    @pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'model': s}])
    def test_other_wrappings(self, test, wrap):
        state = {f'module.{key}': value for key, value in saved().items()}
        torch.save(wrap(state), 'm.pth')
        test('m.pth')

    @pytest.mark.parametrize('value', [[torch.ones(1)], {}, {'state_dict': {}}])
    def test_what_holds_no_weights(self, test, value):
        torch.save(value, 'm.pth')
        with pytest.raises(CheckpointError, match=r'm\.pth'):
            test('m.pth')

    def test_resume_of_a_config_is_none_of_testing(self, test):
        saved()
        with open('c.py', 'a') as file:
            file.write('resume = True\n')
        test('m.pth')


class TestLoadFrom:
    def begin(self, train, *args: str) -> dict[str, Tensor]:
        train(*args, '--cfg-options', 'load_from=m.pth', *STILL)
        return content('wd/epoch_1.pth')['ema_state_dict']

    def test_all_of_it(self, train, said):
        state = saved()
        found = self.begin(train)
        for key, value in state.items():
            if 'running' not in key and 'num_batches' not in key:
                assert torch.equal(found[f'module.{key}'], value), key
        assert not [line for line in said if 'm.pth' in line]

    @pytest.mark.parametrize(
        ('options', 'words'),
        [
            (dict(change=without('neck')), r'neck: 2 of 2 \(neck\.fc\.weight'),
            (
                dict(change=without('neck', 'bbox_head')),
                r'neck: 2 of 2 .*bbox_head: 4 of 4 .*--allow-missing neck bbox_head',
            ),
            (
                dict(width=8),
                r'backbone: 4 of 4 \(backbone\.0\.weight has shape \(8, 3, 1, 1\)',
            ),
        ],
    )
    def test_a_part_that_is_missing_stops(self, train, options, words):
        saved(**options)
        with pytest.raises(CheckpointError, match=f'm.pth, does not fit.*{words}'):
            self.begin(train)
        assert not list(Path('wd').glob('*.pth'))

    def test_a_part_that_may_be_missing(self, train, said):
        state = saved(without('neck'))
        found = self.begin(train, '--allow-missing', 'neck')
        key = 'bbox_head.0.weight'
        assert torch.equal(found[f'module.{key}'], state[key])
        (line,) = [line for line in said if 'm.pth' in line]
        assert line.endswith('neck: 2 of 2 (neck.fc.weight, neck.fc.bias)')
        assert len(line.splitlines()) == 2

    def test_by_the_config(self, train):
        saved(without('neck'))
        with open('c.py', 'a') as file:
            file.write("allow_missing = ['neck']\n")
        self.begin(train)

    def test_a_part_that_there_is_not(self, train):
        saved()
        with pytest.raises(
            InvalidValueError, match=r'no part nek.*backbone, neck, bbox'
        ):
            self.begin(train, '--allow-missing', 'nek')

    def test_another_number_of_classes_trains(self, train, said):
        state = saved(classes=7)
        found = self.begin(train)
        key = 'bbox_head.0.weight'
        assert torch.equal(found[f'module.{key}'], state[key])
        assert found['module.bbox_head.1.weight'].shape == (3, 4)
        (line,) = [line for line in said if 'm.pth' in line]
        assert (
            'bbox_head: 2 of 4 (bbox_head.1.weight has shape (7, 4), expected' in line
        )

    def test_what_is_not_used_is_said(self, train, said):
        state = saved()
        torch.save({'state_dict': {**state, 'mask_head.a': torch.ones(1)}}, 'm.pth')
        self.begin(train)
        assert 'not used from load_from, m.pth,: 1 tensors of mask_head' in said


class TestPretrained:
    """An `init_cfg` outside the backbone."""

    def config(self, **init) -> None:
        cfg = dict(type='Pretrained', checkpoint='m.pth', **init.pop('more', {}))
        with open('c.py', 'a') as file:
            file.write(f'model.update({init["where"]}={init["make"](cfg)!r})\n')

    def test_of_a_neck(self, train, said):
        saved(lambda key, value: torch.ones_like(value))
        more = dict(prefix='neck.')
        make = lambda cfg: dict(type='TinyNeck', init_cfg=cfg)  # noqa: E731
        self.config(where='neck', make=make, more=more)
        train('--cfg-options', *STILL)
        found = content('wd/epoch_1.pth')['ema_state_dict']
        assert found['module.neck.fc.weight'].eq(1).all()
        assert not found['module.bbox_head.0.weight'].eq(1).all()
        saved(lambda key, value: value[:, :1] if value.dim() > 1 else value)
        with pytest.raises(CheckpointError, match=r'm\.pth, of the init_cfg of neck'):
            train()

    def test_of_the_model(self, train, said):
        saved(without('bbox_head'))
        self.config(where='init_cfg', make=lambda cfg: cfg)
        with pytest.raises(
            CheckpointError, match=r'of the model, does.*bbox_head: 4 of'
        ):
            train()
        train('--allow-missing', 'bbox_head')


def equal(one, other) -> bool:
    """Whether two states are the same to the bit, whatever they are of."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, HistoryBuffer):
        return all(
            np.array_equal(a, b) for a, b in zip(one.data, other.data, strict=True)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


# What torchrun does, in forks of one process that has done the imports.
TWO_PROCESSES = """
import os, runpy, socket, sys
import test_checkpoints

with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
os.environ.update(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
child = os.fork()
os.environ['RANK'] = os.environ['LOCAL_RANK'] = '0' if child else '1'
sys.argv[1:] = ['c.py', '--work-dir', 'wd', '--launcher', 'pytorch']
runpy.run_path(sys.orig_argv[3], run_name='__main__')
os._exit(os.waitpid(child, 0)[1] != 0 if child else 0)  # freeing modules takes seconds
"""


class TestResume:
    def test_all_states_come_back(self, train):
        """Weights, average, optimizer, scheduler and log, before any step is taken."""
        train()
        before = content('wd/epoch_1.pth')
        cfg = load_config('c.py', dict(work_dir='other', resume=True))
        runner = Runner.from_cfg(cfg)
        watch(runner, testing=False)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        runner.call_hook('before_run')
        runner.resume('wd/epoch_1.pth')
        assert equal(runner.optim_wrapper.state_dict(), before['optimizer'])
        states = [scheduler.state_dict() for scheduler in runner.param_schedulers]
        assert equal(states, before['param_schedulers'])
        log = MessageHub.get_instance(runner.experiment_name).state_dict()
        for name, values in before['message_hub']['log_scalars'].items():
            assert equal(log['log_scalars'][name], values), name
        own, average = before['ema_state_dict'], before['state_dict']
        for key, value in runner.model.state_dict().items():
            assert equal(value, own[f'module.{key}']), key
        (ema,) = [hook for hook in runner.hooks if hasattr(hook, 'ema_model')]
        for key, value in ema.ema_model.module.state_dict().items():
            assert equal(value, average[key]), key

    def test_a_stopped_run_ends_as_one_that_was_not(self, train):
        options = ['--cfg-options', 'train_cfg.max_epochs=2']
        train(*options)
        whole = content('wd/epoch_2.pth')
        Path('wd/epoch_2.pth').unlink()
        Path('wd/last_checkpoint').write_text('wd/epoch_1.pth')
        train('--resume', *options)
        resumed = content('wd/epoch_2.pth')
        for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert equal(resumed[part], whole[part]), part

    def test_of_another_number_of_processes(self, train, said):
        """Two on the CPU, then one with their batch, unless the config changes it."""
        command = [sys.executable, '-c', TWO_PROCESSES, str(ROOT / 'tools/train.py')]
        environment = dict(os.environ, CUDA_VISIBLE_DEVICES='')
        environment['PYTHONPATH'] = str(Path(__file__).parent)
        subprocess.run(command, env=environment, check=True, timeout=120)
        meta = content('wd/epoch_1.pth')['meta']
        assert (meta['epoch'], meta['iter'], meta['batch_size']) == (1, 1, 4)
        for epochs in (2, 3):  # once more with what the second run kept
            train('--resume', '--cfg-options', f'train_cfg.max_epochs={epochs}')
            meta = content(f'wd/epoch_{epochs}.pth')['meta']
            assert (meta['iter'], meta['batch_size']) == (epochs, 4)
        assert not [line for line in said if 'batch size' in line]
        more = ['train_dataloader.batch_size=1', 'train_cfg.max_epochs=4']
        train('--resume', '--cfg-options', *more)
        (line,) = [line for line in said if 'batch size' in line]
        assert 'epoch_3.pth is of a run with batch size 4' in line
        assert 'one has 1' in line
        meta = content('wd/epoch_4.pth')['meta']
        assert (meta['iter'], meta['batch_size']) == (7, 1)

    def test_the_state_of_a_loss_scaler(self, train):
        train()
        state = content('wd/epoch_1.pth')
        scale = dict(scale=1024.0, growth_factor=2.0, backoff_factor=0.5)
        scale |= dict(growth_interval=2000, _growth_tracker=7)
        state['optimizer']['loss_scaler'] = scale
        torch.save(state, 'amp.pth')
        from mmengine.runner import CheckpointLoader

        found = CheckpointLoader.load_checkpoint('amp.pth')
        assert found['optimizer']['loss_scaler'] == scale

    def test_a_moved_folder(self, train):
        train()
        os.rename('wd', 'elsewhere')
        os.mkdir('wd')
        os.rename('elsewhere/epoch_1.pth', 'wd/epoch_1.pth')
        Path('wd/last_checkpoint').write_text('/gone/epoch_1.pth')
        train('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
        assert content('wd/epoch_2.pth')['meta']['epoch'] == 2

    def test_a_note_of_a_file_that_is_gone(self, train):
        os.mkdir('wd')
        Path('wd/last_checkpoint').write_text('/gone/epoch_1.pth')
        with pytest.raises(
            UserError, match=r'names /gone/epoch_1\.pth, which does not'
        ):
            train('--resume')

    def test_a_first_start_begins_with_load_from(self, train):
        state = saved()
        options = ['load_from=m.pth', *STILL]
        train('--resume', '--cfg-options', *options)
        found = content('wd/epoch_1.pth')['ema_state_dict']
        key = 'bbox_head.0.weight'
        assert torch.equal(found[f'module.{key}'], state[key])
        train('--resume', '--cfg-options', *options, 'train_cfg.max_epochs=2')
        assert content('wd/epoch_2.pth')['meta']['iter'] == 4

    def test_weights_alone_are_no_run(self, train):
        saved()
        with pytest.raises(
            CheckpointError, match=r'm\.pth cannot be resumed.*load_from'
        ):
            train('--resume', 'm.pth')

    def test_of_another_model(self, train):
        train()
        with pytest.raises(CheckpointError, match=r'size mismatch for module\.bbox'):
            train('--resume', '--cfg-options', 'model.classes=5')  # of the average
        words = r'nothing was resumed. 2 wrong: bbox'
        options = ['model.classes=5', 'custom_hooks=None']
        with pytest.raises(CheckpointError, match=words):
            train('--resume', '--cfg-options', *options)

    def test_of_another_optimizer(self, train):
        train()
        option = 'optim_wrapper.paramwise_cfg.bypass_duplicate=True'
        state = content('wd/epoch_1.pth')
        state['optimizer']['param_groups'] *= 2
        torch.save(state, 'wd/epoch_1.pth')
        with pytest.raises(CheckpointError, match='its optimizer is not that'):
            train('--resume', '--cfg-options', option)

    def test_no_code_is_run_in_resuming(self, train, monkeypatch):
        train()
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        state = content('wd/epoch_1.pth')
        state['meta']['config'] = 'open("ran", "w")'
        torch.save(state, 'wd/epoch_1.pth')
        train('--resume', '--cfg-options', 'train_cfg.max_epochs=2')
        state['meta']['note'] = Payload()
        torch.save(state, 'bad.pth')
        with pytest.raises(CheckpointError, match=r'bad\.pth was rejected'):
            train('--resume', 'bad.pth')
        assert not Path('ran').exists()
        assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ


class Payload:
    def __reduce__(self):
        return os.system, ('touch ran',)


class TestFilesOfConfigs:
    def test_pickles_are_data(self):
        from mmengine.fileio import dump, load

        load_config('c.py')
        found = InstanceData(bboxes=np.ones((1, 4), np.float32), scores=np.ones(1))
        dump({'a.jpg': found}, 'proposals.pkl')
        read = load('proposals.pkl')['a.jpg']
        assert type(read) is InstanceData and read.bboxes.shape == (1, 4)
        Path('bad.pkl').write_bytes(pickle.dumps(dict(a=Payload())))
        with pytest.raises(InvalidValueError, match=r'rejected.*system'):
            load('bad.pkl')
        Path('bad.pkl').write_bytes(b'\x80')
        with pytest.raises(InvalidValueError, match='damaged'):
            load('bad.pkl')
        assert not Path('ran').exists()

    def test_yaml_is_data(self):
        import yaml
        from mmengine.fileio import load

        load_config('c.py')
        Path('good.yml').write_text('a: !!python/tuple [1, 2]')
        assert load('good.yml') == {'a': (1, 2)}
        Path('bad.yml').write_text('!!python/object/apply:os.system ["touch ran"]')
        with pytest.raises(yaml.YAMLError):
            load('bad.yml')
        assert not Path('ran').exists()
