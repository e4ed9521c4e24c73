"""Which operators of mmcv are used, tested in separate processes."""

import subprocess
import sys
from pathlib import Path

FOUND = 'import mmcv._ext; print(mmcv._ext.__file__)'
COMPILED = """
import pathlib, sys, mmcv
folder = pathlib.Path(sys.argv[1])
(folder / '_ext.py').write_text('')
mmcv.__path__.append(str(folder))
"""
WORKER = """
import multiprocessing

def find(_):
    import mmcv._ext
    return mmcv._ext.__file__

if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(*pool.map(find, [0]))
"""


def python(*arguments, **env):
    """Run Python where mmmeta can only be found by its installation."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={'PATH': '', **env},
        cwd='/',
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def is_stand_in(file):
    return Path(file).parts[-4:] == ('mmmeta', 'hosts', 'mmcv_ops', '__init__.py')


def test_every_process_has_the_operators(tmp_path):
    code, file, errors = python('-c', FOUND)
    assert (code, errors) == (0, '')
    assert is_stand_in(file)
    script = tmp_path / 'script.py'
    script.write_text(WORKER)
    code, file, errors = python(script)
    assert (code, errors) == (0, '')
    assert is_stand_in(file)


def test_stock_tools_read_configs_of_mmmeta():
    code = (
        'from mmengine.config import Config\n'
        "path = 'mmmeta::segmentation/semantic_fpn_poolformer_s12.py'\n"
        "print(Config.fromstring(f'_base_ = {path!r}', '.py').model.backbone.arch)"
    )
    status, out, errors = python('-c', code)
    assert (status, out) == (0, 's12'), errors


def test_a_start_of_python_loads_nothing_else():
    code = 'import sys; print(*sys.modules)'
    # -I -S: without site, so without .pth files.
    without, with_site = (
        set(python(*options, '-c', code)[1].split()) for options in (['-S'], [])
    )
    assert 'mmmeta_finder' in with_site - without
    heavy = {'torch', 'numpy', 'mmcv', 'mmmeta', 'importlib.util'}
    assert not heavy & with_site


def test_a_compiled_mmcv_comes_first(tmp_path):
    code, file, errors = python('-c', COMPILED + FOUND, tmp_path)
    assert (code, errors) == (0, '')
    assert Path(file) == tmp_path / '_ext.py'


def test_switched_off():
    code, _, errors = python('-c', FOUND, MMMETA_MMCV_OPS='0')
    assert code == 1
    assert errors.splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'mmcv._ext'"
    )


def test_inert_without_mmcv():
    block = "import sys; sys.modules['mmcv'] = None\n"
    code, _, errors = python('-c', block + FOUND)
    assert code == 1
    assert errors.splitlines()[-1].startswith('ModuleNotFoundError: ')


def test_without_the_package_it_finds_nothing():
    code = """
import importlib.util, mmmeta_finder, sys
sys.meta_path[:] = [mmmeta_finder.Finder]
print(mmmeta_finder.Finder.find_spec('mmcv._ext'))
"""
    assert python('-c', code)[:2] == (0, 'None')
