"""The wheel, the sdist and the editable install, really built and used."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

IGNORED = shutil.ignore_patterns(
    *('.*', '__pycache__', '*.egg-info', 'build', 'dist', 'work_dirs')
)
BUILD_BACKBONE = """
import pathlib
from mmengine.registry import MODELS

backbone = MODELS.build(dict(type='mmmeta.PoolFormer', arch='s12'))
import mmmeta
print(type(backbone).__name__, pathlib.Path(mmmeta.__file__).parent)
"""


def run(command, cwd, **env):
    kept = {key: val for key, val in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*args, cwd):
    return run(['-m', 'pip', '--disable-pip-version-check', *args], cwd)


def backend(call, cwd):
    """Call the build backend like pip; return the built file."""
    code = f'from setuptools import build_meta as b; print(b.{call})'
    return Path(cwd, run(['-c', code], cwd).split()[-1])


def copy_tree(root, folder):
    copied = shutil.copytree(root, folder, ignore=IGNORED)
    # Files that git would not ignore, but `.*` above does.
    shutil.copy(root / '.gitignore', folder)
    return copied


def build_wheel(source, folder):
    pip(
        *('wheel', '--no-deps', '--no-build-isolation', '--no-index'),
        *('--wheel-dir', folder, source),
        cwd=folder.parent,
    )
    (wheel,) = folder.glob('mmmeta_backbones-*.whl')
    return wheel


def contents(wheel):
    """Return the bytes of all files except the list of hashes, by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith('RECORD')]
        return {name: archive.read(name) for name in names}


@pytest.fixture(scope='module')
def source(root, tmp_path_factory):
    return copy_tree(root, tmp_path_factory.mktemp('packaging') / 'source')


@pytest.fixture(scope='module')
def wheel(source):
    return build_wheel(source, source.parent / 'wheel')


def files_below(folder, parent):
    files = [file for file in folder.rglob('*') if file.is_file()]
    assert files, f'{folder} is empty'
    return {
        file.relative_to(parent).as_posix()
        for file in files
        if not {'.mim', '__pycache__'} & set(file.parts)
    }


def test_wheel_contents(root, wheel):
    names = set(contents(wheel))
    version = wheel.name.split('-')[1]
    tops = {name.split('/')[0] for name in names}
    info = f'mmmeta_backbones-{version}.dist-info'
    assert tops == {'mmmeta', 'mmmeta_finder.py', 'mmmeta_finder.pth', info}

    package = {name for name in names if name.startswith('mmmeta/')}
    mim = {name for name in package if name.startswith('mmmeta/.mim/')}
    assert package - mim == files_below(root / 'mmmeta', root)
    assert 'mmmeta/py.typed' in package
    expected = files_below(root / 'configs', root) | files_below(root / 'tools', root)
    expected |= {'model-index.yml'}
    assert mim == {f'mmmeta/.mim/{name}' for name in expected}


def test_wheel_metadata(wheel, root):
    metadata = next(
        text.decode() for name, text in contents(wheel).items() if 'METADATA' in name
    )
    version = (root / 'mmmeta/version.py').read_text().split("'")[1]
    lines = metadata.split('\n')
    assert 'Name: mmmeta-backbones' in lines
    assert f'Version: {version}' in lines
    assert 'License-Expression: Apache-2.0' in lines
    # Neither a host library nor PyTorch: exported models need none.
    required = [line for line in lines if line.startswith('Requires-Dist')]
    always = [line.split()[1] for line in required if 'extra ==' not in line]
    assert always == ['numpy', 'pillow', 'tqdm']


def test_installed_wheel_works_anywhere(wheel, tmp_path):
    target, empty = tmp_path / 'target', tmp_path / 'empty'
    empty.mkdir()
    pip(
        *('install', '--quiet', '--no-deps', '--no-index', '--target', target, wheel),
        cwd=empty,
    )
    # PYTHONPATH precedes site-packages, so an editable install is not found.
    printed = run(['-c', BUILD_BACKBONE], empty, PYTHONPATH=str(target))
    name, folder = printed.split()[-2:]
    assert name == 'PoolFormer'
    assert Path(folder) == target / 'mmmeta'
    assert list((Path(folder) / '.mim/configs').rglob('*.py'))
    assert (Path(folder) / '.mim/model-index.yml').is_file()
    printed = run([target / 'bin/mmmeta', '--help'], empty, PYTHONPATH=str(target))
    assert 'convert' in printed


def test_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    sdist = backend("build_sdist('dist')", source)
    with tarfile.open(source / 'dist' / sdist.name) as archive:
        archive.extraction_filter = getattr(tarfile, 'data_filter', None)
        archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    assert not (unpacked / 'tests').exists()
    assert contents(build_wheel(unpacked, tmp_path / 'wheel')) == contents(wheel)


def test_editable_install(root, wheel, tmp_path):
    """A plain path, so .mim links, IDEs and type checkers see the checkout."""
    source = copy_tree(root, tmp_path / 'source')
    editable = contents(source / backend("build_editable('.')", source).name)
    finder, path = (
        editable[name].decode().strip()
        # In Python's reading order: the path is needed first.
        for name in sorted(editable, reverse=True)
        if name.endswith('.pth')
    )
    assert Path(path) == source
    assert finder == 'import mmmeta_finder'
    for name in ('configs', 'tools', 'model-index.yml'):
        link = source / 'mmmeta/.mim' / name
        assert link.is_symlink() and not Path(os.readlink(link)).is_absolute()
        assert link.samefile(source / name)
    # A wheel of this tree must not contain the links or a removed config.
    assert contents(build_wheel(source, tmp_path / 'wheel')) == contents(wheel)
    removed = next((source / 'configs').rglob('*.py')).relative_to(source)
    (source / removed).unlink()
    (tmp_path / 'wheel' / wheel.name).unlink()
    left = contents(build_wheel(source, tmp_path / 'wheel'))
    assert set(contents(wheel)) - set(left) == {f'mmmeta/.mim/{removed.as_posix()}'}
