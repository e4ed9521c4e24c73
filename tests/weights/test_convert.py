"""`convert_checkpoint` and the command line."""

import resource
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from mmmeta import cli
from mmmeta.commands import COMMANDS
from mmmeta.models import PoolFormer
from mmmeta.weights import CheckpointError, convert_checkpoint
from mmmeta.weights.state import parse, to_layout

TINY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    state = PoolFormer(TINY, fork_feat=False).state_dict()
    state |= {'head.fc.weight': torch.randn(5, 32), 'head.fc.bias': torch.randn(5)}
    return to_layout(parse(state), 'sail-sg/poolformer')


@pytest.fixture
def source(tmp_path, state):
    """A training run's file, with optimizer state and averaged weights."""
    path = tmp_path / 'train.pth'
    average = {key: value + 1 for key, value in state.items()}
    content = dict(state_dict=state, state_dict_ema=average, epoch=3, optimizer={})
    torch.save(content, path)
    return path


@pytest.mark.parametrize('layout', ['mmmeta', 'timm', 'mmpretrain', 'transformers'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_there_and_back(source, state, tmp_path, layout, suffix):
    there = convert_checkpoint(source, tmp_path / f'a{suffix}', layout, ema=False)
    content = load_file(there) if suffix == '.safetensors' else torch.load(there)
    assert content.keys() == to_layout(parse(state), layout).keys()
    back = convert_checkpoint(there, tmp_path / 'b.safetensors', 'sail-sg/poolformer')
    result = load_file(back)
    assert result.keys() == state.keys()
    assert all(torch.equal(result[key], state[key]) for key in state)


def test_average_or_not(source, state, tmp_path):
    average = load_file(convert_checkpoint(source, tmp_path / 'a.safetensors', 'timm'))
    plain = convert_checkpoint(source, tmp_path / 'b.safetensors', 'timm', ema=False)
    plain = load_file(plain)
    assert torch.equal(plain['head.fc.bias'], state['head.bias'])
    assert torch.equal(average['head.fc.bias'], state['head.bias'] + 1)


@pytest.mark.parametrize(
    ('dst', 'to', 'words'),
    [
        ('x.onnx', 'timm', r'must end in one of \.safetensors'),
        ('train.pth', 'timm', 'already exists'),
        ('x.pth', 'keras', r'unknown layout .keras.; choose from'),
        ('x.pth', 'Sense-X/UniFormer', r'train\.pth: .*cannot represent'),
        ('no/folder/x.pth', 'timm', 'cannot be written'),
    ],
)
def test_refusals(source, tmp_path, dst, to, words):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=words):
        convert_checkpoint(source, tmp_path / dst, to)
    assert sorted(tmp_path.iterdir()) == before


def test_overwrite(source, tmp_path):
    dst = tmp_path / 'x.pth'
    dst.touch()
    convert_checkpoint(source, dst, 'timm', overwrite=True)
    assert 'stem.conv.weight' in torch.load(dst)


# Each may fail, with a separate line.
CONVERT_ALL = """
import sys
from mmmeta.weights import CheckpointError, convert_checkpoint
for dst in sys.argv[2:]:
    try:
        convert_checkpoint(sys.argv[1], dst)
    except CheckpointError as error:
        print(error)
"""


def test_full_disk_leaves_nothing(source, tmp_path):
    files = [str(tmp_path / f'full{suffix}') for suffix in ('.pth', '.safetensors')]
    run = subprocess.run(
        [sys.executable, '-c', CONVERT_ALL, source, *files],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for file, line in zip(files, run.stdout.splitlines(), strict=True):
        assert line.startswith(f'{file} cannot be written: ')
        assert 'File too large' in line
    assert [path.name for path in tmp_path.iterdir()] == ['train.pth']


class TestCommandLine:
    def test_list(self, capsys):
        assert cli.main(['list', '*former_s12']) == 0
        assert capsys.readouterr().out.split() == [
            'identityformer_s12',
            'poolformer_s12',
            'randformer_s12',
        ]
        assert cli.main(['list', '--pretrained', 'caformer_s18*']) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 6
        assert lines[1].split() == [
            'caformer_s18.sail_in1k',
            '83.6',
            '26',
            '4.1',
            '224',
            '1000',
        ]
        assert cli.main(['list', 'poolfomer']) == 1
        assert 'nearest: poolformer' in capsys.readouterr().err

    def test_list_is_quick(self):
        # The best of three: other processes may delay one.
        def run() -> float:
            start = time.perf_counter()
            command = [sys.executable, '-m', 'mmmeta.cli', 'list']
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - start

        assert min(run() for _ in range(3)) < 1.5

    def test_info(self, capsys):
        assert cli.main(['info', 'caformer_s18']) == 0
        out = capsys.readouterr().out
        assert 'mmmeta://caformer_s18.sail_in1k' in out
        assert 'sail_in22k_ft_in1k_384' in out
        assert 'huggingface.co/sail/dl/resolve/main/caformer/caformer_s18.pth' in out
        assert cli.main(['info', 'caformer_s19']) == 1
        assert 'nearest: caformer_s18' in capsys.readouterr().err

    def test_convert(self, source, tmp_path, capsys):
        dst = str(tmp_path / 'x.safetensors')
        assert cli.main(['convert', str(source), dst, '--to', 'timm', '--no-ema']) == 0
        assert 'stem.conv.weight' in load_file(dst)
        assert dst in capsys.readouterr().out
        assert cli.main(['convert', str(source), dst]) == 1
        assert 'already exists' in capsys.readouterr().err
        with pytest.raises(SystemExit):
            cli.main(['convert', str(source), dst, '--to', 'keras'])

    @pytest.mark.parametrize('command', COMMANDS)
    def test_help(self, command, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, '--help'])
        assert caught.value.code == 0
        assert len(capsys.readouterr().out.splitlines()) > 4

    def test_no_command(self, capsys):
        assert cli.main([]) == 2
        printed = capsys.readouterr().err
        assert all(name in printed for name in COMMANDS)
