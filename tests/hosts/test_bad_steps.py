"""Losses that are no numbers, images that cannot be read, and killed processes."""

import os
import shutil
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import state, write_configs

from mmmeta.errors import UserError

SEED = 'randomness.seed=3'


@pytest.fixture(autouse=True)
def folder(tmp_path, shapes, monkeypatch) -> Path:
    """The current folder, with configs and a copy of the images."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes / 'images', 'data/images')
    write_configs(tmp_path, Path('data').resolve())
    monkeypatch.setenv('LOCAL_RANK', '0')
    return tmp_path


@pytest.fixture
def train(monkeypatch):
    return lambda *args: small_runs.train(monkeypatch, *args)


def images() -> list[Path]:
    return sorted(Path('data/images/train').resolve().iterdir())


def hook(**options: object) -> None:
    with open('epochs.py', 'a') as file:
        file.write(
            f"custom_hooks.append(dict(type='mmmeta.BadStepHook', **{options!r}))\n"
        )


NAN = 'train_dataloader.dataset.nan=5'


def test_a_bad_loss_stops_with_the_files_and_the_last_good_checkpoint(train):
    train('epochs', 'work', '--cfg-options', SEED, 'train_cfg.max_epochs=1')
    with pytest.raises(UserError) as error:
        train('epochs', 'work', '--resume', '--cfg-options', SEED, NAN)
    text = str(error.value)
    assert 'the loss is nan, of ' in text and str(images()[5]) in text
    good = Path('work/epoch_1.pth').resolve()
    assert text.endswith(f'The last good checkpoint is {good}')
    # A newer one with weights that are none is not called good.
    bad = state('work/epoch_1.pth')
    bad['state_dict']['head.1.bias'][0] = float('inf')
    torch.save(bad, 'work/epoch_1.5.pth')
    Path('work/last_checkpoint').write_text('work/epoch_1.5.pth')
    args = ['--resume', 'work/epoch_1.pth', '--cfg-options', SEED, NAN]
    with pytest.raises(UserError, match=r'good checkpoint is work/epoch_1\.pth'):
        train('epochs', 'work', *args)


def test_bad_losses_are_skipped_as_many_as_allowed(train, said):
    hook(skip=2)
    train('epochs', 'work', '--cfg-options', SEED, NAN)
    lines = [line for line in said if 'the loss is nan' in line]
    assert [line.rpartition('; ')[2] for line in lines] == [
        f'skipped, {k} of at most 2' for k in (1, 2)
    ]
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in state('work/epoch_2.pth')[part].items():
            assert torch.isfinite(value).all(), name  # statistics of the norm, too
    with pytest.raises(UserError, match='the loss is nan'):  # the count is kept
        args = ['--cfg-options', SEED, NAN, 'train_cfg.max_epochs=3']
        train('epochs', 'work', '--resume', *args)


def test_weights_that_are_no_numbers_are_not_saved(train):
    options = ['optim_wrapper.optimizer.lr=1e38', 'optim_wrapper.optimizer.type=SGD']
    with pytest.raises(
        UserError, match=r'weights are no numbers|the loss is (nan|inf)'
    ):
        train('epochs', 'work', '--cfg-options', SEED, *options)
    assert not list(Path('work').glob('*.pth'))


def corrupt(kind: str) -> Path:
    path = images()[3]
    content = path.read_bytes()
    if kind == 'missing':
        path.unlink()
        Path(path.parent, 'z.txt').write_text('')  # keeps the number of images
    else:
        path.write_bytes(content[: len(content) // 2] if kind == 'cut off' else b'no')
    return path


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['damaged', 'cut off'])
def test_a_corrupt_image_stops(kind, workers, train):
    path = corrupt(kind)
    option = f'train_dataloader.num_workers={workers}'
    with pytest.raises(UserError) as error:
        train('epochs', 'work', '--cfg-options', SEED, option)
    text = str(error.value)
    assert text.startswith(f'{path} cannot be read (')
    assert text.endswith('There is no checkpoint yet') and '\n' not in text


def test_a_corrupt_image_is_skipped_and_named(train, said):
    hook(corrupt='skip')
    path = corrupt('cut off')
    train('epochs', 'work', '--cfg-options', SEED)
    lines = [line for line in said if 'cannot be read' in line]
    assert len(lines) == 2  # in each epoch
    for line in lines:
        assert line.startswith(f'{path} cannot be read')
        assert line.endswith(f'skipped, {images()[4]} takes its place')


def test_images_that_a_config_ignores_are_named(train):
    """The host libraries would take any other image without a word."""
    from mmmeta.hosts.bad_steps import _raise_if_empty

    class Step:
        ignore_empty = True

    class Data:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    step = Step()
    pipeline = Data(transforms=[step])
    inner = Data(pipeline=pipeline)
    _raise_if_empty(Data(dataset=Data(datasets=[inner])))
    assert step.ignore_empty is False


def test_a_bug_in_a_pipeline_is_no_corrupt_image(train, monkeypatch):
    hook(corrupt='skip')
    monkeypatch.setattr('random.randrange', lambda size: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train('epochs', 'work', '--cfg-options', SEED)


def test_a_killed_loading_process_is_named(train, monkeypatch):
    parent = os.getpid()

    def die(*_):
        assert os.getpid() != parent
        os.kill(os.getpid(), 9)

    monkeypatch.setattr('random.randrange', die)
    option = 'train_dataloader.num_workers=1'
    with pytest.raises(UserError, match=r'data was killed: .* by signal: Kill'):
        train('epochs', 'work', '--cfg-options', SEED, option)


def test_two_processes_skip_together(warm_python):
    hook(skip=9)
    args = ['epochs.py', '--work-dir', 'work', '--cfg-options', SEED, NAN]
    codes, log = small_runs.processes(warm_python, 2, *args)
    assert codes == [0, 0]
    assert 'skipped, 2 of at most 9' in log and 'skipped, 3' not in log
    for name, value in state('work/epoch_2.pth')['state_dict'].items():
        assert torch.isfinite(value).all(), name
