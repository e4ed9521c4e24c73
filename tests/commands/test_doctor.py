"""`mmmeta doctor` on this installation, and on broken ones built in a folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from mmmeta.cli import main
from mmmeta.commands.doctor import libraries
from mmmeta.commands.doctor.packages import read_packages

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(sysconfig.get_paths()['purelib'])
# Like the console script, with `folders` instead of the installed packages.
START = """
import sys
sys.argv = ['mmmeta', 'doctor', '--json']
sys.path.extend({folders})
from mmmeta.cli import main
sys.exit(main())
"""


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
    lines += [f'Requires-Dist: {needed}' for needed in requires]
    (info / 'METADATA').write_text('\n'.join(lines) + '\n')


def module(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / '__init__.py').write_text(code)


def link(folder: Path, *patterns: str, without: tuple[str, ...] = ()) -> None:
    """Link installed packages into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = {path for pattern in without for path in PACKAGES.glob(pattern)}
    for path in {path for pattern in patterns for path in PACKAGES.glob(pattern)}:
        if path in left_out:
            continue
        if path.name == 'cv2':  # it resolves the real path of its files
            shutil.copytree(path, folder / 'cv2')
        else:
            (folder / path.name).symlink_to(path)


def examine(folder: Path) -> tuple[int, dict[str, dict]]:
    """Return the exit code and the findings that are not ok, by subject."""
    folders = [str(folder), str(ROOT)]
    done = subprocess.run(
        [sys.executable, '-S', '-c', START.format(folders=folders)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.stderr == ''
    report = json.loads(done.stdout)
    wrong = [f for f in report['findings'] if f['mark'] in ('warning', 'problem')]
    assert all(finding['fix'] for finding in wrong)
    assert report['problems'] == sum(f['mark'] == 'problem' for f in wrong)
    assert done.returncode == int(report['problems'] > 0)
    return done.returncode, {finding['subject']: finding for finding in wrong}


@pytest.mark.slow
def test_this_installation_is_healthy(capfd):
    assert main(['doctor']) == 0
    printed, err = capfd.readouterr()
    assert err == '' and '\033' not in printed
    assert printed.endswith('\nno problems\n')
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines()[:14])
    import torch

    assert lines['torch'].split() == ['ok', torch.__version__]
    assert lines['mmcv'].endswith('(onedl-mmcv)')
    assert lines['operators'].startswith(
        "ok       torchvision's, since onedl-mmcv has no compiled ones; nms is correct "
    )
    for name in ('mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'cv2', 'timm'):
        assert lines[name].startswith('ok '), lines[name]


def test_nothing_is_installed(tmp_path):
    code, wrong = examine(tmp_path)
    assert code == 1
    assert set(wrong) == {'torch', 'numpy', 'timm', 'mmengine'}
    assert {finding['text'] for finding in wrong.values()} == {'not installed'}
    assert wrong['timm']['fix'] == 'pip install timm'


def test_mmengine_is_missing(tmp_path):
    """Everything else works; what needs MMEngine is fixed by its command."""
    link(tmp_path, '*', without=('torch', 'torch-*', '*mmengine*', '*mmmeta*'))
    _, wrong = examine(tmp_path)
    assert wrong['mmengine']['text'] == 'not installed'
    fix = "pip install 'mmmeta-backbones[onedl]'"
    assert wrong['mmengine']['fix'] == wrong['mmcv']['fix'] == fix
    assert wrong['mmcv']['text'] == "mmcv: No module named 'mmengine'"
    assert wrong['timm']['text'] == "timm: No module named 'torch'"
    assert wrong['timm']['fix'] == wrong['torch']['fix'] == 'pip install torch'


FORKS = ('onedl-mmengine', 'onedl-mmdetection')
CONFLICTS = {
    'both mmcv': (
        ['onedl-mmcv 2.3.6', 'mmcv 2.1.0'],
        'mmcv',
        'problem',
        'onedl-mmcv 2.3.6 and mmcv 2.1.0 are both installed and have the same files',
        'pip uninstall -y onedl-mmcv mmcv && pip install onedl-mmcv',
    ),
    'both mmmeta': (
        ['mmmeta-backbones 0.1.0', 'mmmeta 2.0'],
        'mmmeta',
        'problem',
        'mmmeta-backbones 0.1.0 and mmmeta 2.0 are both installed and have the same '
        'files',
        'pip uninstall -y mmmeta-backbones mmmeta && pip install mmmeta-backbones',
    ),
    'both opencv': (
        ['opencv-python 4.11.0.86', 'opencv_python_headless 4.10.0.84'],
        'cv2',
        'warning',
        'opencv-python-headless 4.10.0.84 and opencv-python 4.11.0.86 are both '
        'installed and have the same files',
        'pip uninstall -y opencv-python-headless opencv-python && '
        'pip install opencv-python-headless',
    ),
    'transformers 5': (
        ['onedl-mmpretrain 1.3.6', 'transformers 5.0.1'],
        'transformers',
        'problem',
        'MMPretrain cannot be imported with transformers 5.0.1',
        "pip install 'transformers<5'",
    ),
    'transformers 4.57 beside the original': (
        ['mmpretrain 1.2.0', 'transformers 4.57.6'],
        'transformers',
        'problem',
        'MMPretrain cannot be imported with transformers 4.57.6',
        "pip install 'transformers<4.56'",
    ),
    'an old torch': (
        ['mmmeta-backbones 0.1.0 torch>=2.6', 'torch 2.5.1+cpu'],
        'torch',
        'problem',
        'mmmeta-backbones needs torch>=2.6, found 2.5.1+cpu',
        "pip install 'torch>=2.6'",
    ),
}


@pytest.mark.parametrize(
    ('installed', 'subject', 'mark', 'text', 'fix'), CONFLICTS.values(), ids=CONFLICTS
)
def test_distributions_in_conflict(installed, subject, mark, text, fix, tmp_path):
    link(tmp_path, 'packaging')
    for fork in FORKS:
        distribution(tmp_path, fork, '1.0')
    for spec in installed:
        distribution(tmp_path, *spec.split())
    _, wrong = examine(tmp_path)
    assert {key: wrong[subject][key] for key in ('mark', 'text', 'fix')} == dict(
        mark=mark, text=text, fix=fix
    )


def test_among_original_libraries_the_original_stays(tmp_path):
    for spec in ('mmengine 0.10.7', 'mmdet 3.3.0', 'onedl-mmcv 2.3.6', 'mmcv 2.1.0'):
        distribution(tmp_path, *spec.split())
    _, wrong = examine(tmp_path)
    assert wrong['mmcv']['fix'].endswith('&& pip install mmcv-lite')


def test_versions_that_a_host_refuses(tmp_path):
    distribution(tmp_path, 'mmengine', '0.10.7')
    distribution(tmp_path, 'mmcv', '2.2.0')
    distribution(tmp_path, 'mmdet', '3.3.0')
    refusal = (
        'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'
    )
    module(tmp_path, 'mmdet', f'raise AssertionError({refusal!r})')
    _, wrong = examine(tmp_path)
    assert wrong['mmdet']['text'] == f'mmdet.apis: {refusal}'
    assert wrong['mmdet']['fix'] == (
        "pip uninstall -y mmcv && pip install 'mmcv-lite>=2.0.0rc4,<2.2.0'"
    )


def test_a_crash_and_an_exit_are_findings(tmp_path):
    distribution(tmp_path, 'timm', '1.0')
    module(tmp_path, 'timm', 'import ctypes; ctypes.string_at(0)')
    module(tmp_path, 'mmseg', 'import os; os._exit(3)')
    module(tmp_path, 'mmpretrain', 'import sys; print("chatter"); sys.exit("gone")')
    module(tmp_path, 'numpy', '__version__ = "2.0"')
    _, wrong = examine(tmp_path)
    assert wrong['timm']['text'] == 'timm: crashed Python with SIGSEGV'
    assert wrong['timm']['fix'] == 'pip install --force-reinstall --no-deps timm'
    assert wrong['mmseg']['text'] == 'mmseg.apis: exited Python with code 3'
    assert wrong['mmpretrain']['text'] == 'mmpretrain.apis: gone'
    assert 'numpy' not in wrong


def test_an_import_without_end_is_a_finding(tmp_path, monkeypatch):
    module(tmp_path, 'timm', 'import time; time.sleep(600)')
    module(tmp_path, 'numpy', '')
    own = [path for path in sys.path if Path(path) != PACKAGES]
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *own])
    monkeypatch.setattr(libraries, 'TIME_LIMIT', 3)
    start = time.monotonic()
    probes = libraries.run_probes()
    assert time.monotonic() - start < 30
    assert probes['timm'] == dict(error='did not finish in 3 s')
    assert probes['numpy'] == dict(version='')
    assert probes['transformers']['missing'] == 'transformers'


@pytest.mark.slow
def test_operators_that_do_not_load(tmp_path):
    """The installed mmcv, but with a broken compiled part."""
    slow = ('mmdet', 'mmpretrain', 'torchvision', 'transformers', 'timm')
    link(tmp_path, '*', without=('mmcv', '*mmmeta*', *slow))
    (tmp_path / 'mmcv').mkdir()
    for path in (PACKAGES / 'mmcv').iterdir():
        (tmp_path / 'mmcv' / path.name).symlink_to(path)
    suffix = sysconfig.get_config_var('EXT_SUFFIX')
    (tmp_path / 'mmcv' / f'_ext{suffix}').write_bytes(b'\x7fELF')
    version = next(PACKAGES.glob('onedl_mmcv-*')).name.split('-')[1].split('.dist')[0]
    _, wrong = examine(tmp_path)
    assert 'mmcv' not in wrong
    assert wrong['operators']['text'].startswith('mmcv.ops: ')
    assert '_ext' in wrong['operators']['text']
    fix = (
        f'pip install --force-reinstall --no-deps --no-cache-dir onedl-mmcv=={version}'
    )
    assert wrong['operators']['fix'] == fix
    assert wrong['mmseg']['fix'] == fix  # which fails for the same reason


def test_operators_that_are_switched_off(monkeypatch):
    monkeypatch.setenv('MMMETA_MMCV_OPS', '0')
    modules = {name: libraries.MODULES[name] for name in ('mmcv', 'operators')}
    monkeypatch.setattr(libraries, 'MODULES', modules)
    monkeypatch.setattr(libraries, 'LIBRARIES', ['operators'])
    probes = libraries.run_probes()
    (*_, finding) = libraries.check_libraries(probes, read_packages())
    assert finding.mark == 'problem'
    assert finding.text == "mmcv.ops: No module named 'mmcv._ext'"
    assert finding.fix == 'unset MMMETA_MMCV_OPS'


def test_the_cache_of_the_weights(tmp_path, monkeypatch):
    """An incomplete download, a truncated one, a different file, and a good one."""
    import torch
    from safetensors.torch import save_file

    from mmmeta.commands.doctor.machine import check_machine

    home = tmp_path / 'home'
    home.mkdir()
    tensors = dict(weight=torch.ones(64, 64))
    save_file(tensors, home / 'good.safetensors')
    torch.save(tensors, home / 'good.pth')
    for name in ('good.safetensors', 'good.pth'):
        half = (home / name).read_bytes()[:8000]
        (home / name.replace('good', "it's cut")).write_bytes(half)
    (home / 'caformer_s18.pth.part').write_bytes(b'12')
    (home / 'caformer_s36.pth').write_bytes(b'other')
    (home / 'caformer_s36.pth.sha256').write_text('0' * 64 + '  caformer_s36.pth\n')
    monkeypatch.setenv('MMMETA_HOME', str(home))
    monkeypatch.setattr(libraries, 'MODULES', dict(weights='mmmeta'))
    probes = libraries.run_probes()
    findings = check_machine(dict(torch={}, allocator={}, **probes))
    found = [finding for finding in findings if finding.subject == 'weights']
    assert found[0].text == f'5 files, 0.0 GiB in {home}'
    assert found[1].mark == 'warning'
    assert found[1].fix == f'rm {home}/caformer_s18.pth.part'
    damaged = {finding.fix: finding.text for finding in found[2:]}
    assert all(finding.mark == 'problem' for finding in found[2:])
    assert set(damaged) == {
        f"rm '{home}/it'\"'\"'s cut.pth'",
        f"rm '{home}/it'\"'\"'s cut.safetensors'",
        f'rm {home}/caformer_s36.pth',
    }
    assert 'but had' in damaged[f'rm {home}/caformer_s36.pth']


@pytest.mark.parametrize(
    ('capability', 'archs', 'mark'),
    [
        ((8, 6), ['sm_75', 'sm_80'], 'ok'),
        ((9, 0), ['sm_80', 'sm_90a'], 'ok'),
        ((7, 0), ['sm_75', 'sm_80'], 'problem'),
        ((12, 0), ['sm_80', 'sm_90'], 'problem'),
        ((12, 0), ['sm_80', 'compute_90'], 'ok'),
    ],
)
def test_a_gpu_that_torch_has_no_code_for(capability, archs, mark):
    from mmmeta.commands.doctor.machine import check_machine

    gpu = dict(name='Some GPU', capability=capability, free=2**30, total=2**31)
    facts = dict(gpus=[gpu], archs=archs, cuda='12.8')
    probes = dict(torch=facts, allocator={}, weights=dict(error='none'))
    found = next(f for f in check_machine(probes) if f.subject == 'GPU')
    assert found.mark == mark
    assert 'Some GPU, compute capability' in found.text
    assert '1.0 of 2.0 GiB free' in found.text
    assert bool(found.fix) == (mark == 'problem')
