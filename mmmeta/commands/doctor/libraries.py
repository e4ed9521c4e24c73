"""Whether libraries can be imported and work, tested in a separate process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmmeta.commands.doctor.finding import Finding
from mmmeta.commands.doctor.packages import Packages, install_command, owners, preferred

# Modules to import, in this order, and the probes for `check_machine`.
MODULES = {
    'torch': 'torch',
    'torchvision': 'torchvision',
    'numpy': 'numpy',
    'cv2': 'cv2',
    'timm': 'timm',
    'transformers': 'transformers',
    'mmengine': 'mmengine.runner',
    'mmcv': 'mmcv',
    'operators': 'mmcv.ops',
    'mmdet': 'mmdet.apis',
    'mmseg': 'mmseg.apis',
    'mmpretrain': 'mmpretrain.apis',
    'weights': 'mmmeta',
    'allocator': 'os',
}
LIBRARIES = [*MODULES][: [*MODULES].index('weights')]
NEEDED = {'torch', 'numpy', 'timm', 'mmengine'}
TIME_LIMIT = 300  # seconds; a cold start on one core takes half a minute
PROBE = Path(__file__).with_name('probe.py')

Probes = dict[str, dict[str, Any]]


def run_probes() -> Probes:
    """Import all of `MODULES` and return the facts, or the `error`, for each.

    After a crash the remaining ones are imported in a new process.
    """
    probes: Probes = {}
    while rest := {n: m for n, m in MODULES.items() if n not in probes}:
        order = json.dumps(dict(path=sys.path, modules=rest))
        try:
            done = subprocess.run(
                [sys.executable, str(PROBE), order],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIME_LIMIT,
            )
            answers, end = done.stdout, _end(done.returncode)
        except subprocess.TimeoutExpired as error:
            answers, end = error.stdout or b'', f'did not finish in {TIME_LIMIT} s'
        for line in answers.splitlines():
            answer = json.loads(line)
            probes[answer.pop('name')] = answer
        crashed = next((name for name in rest if name not in probes), None)
        if crashed:
            probes[crashed] = dict(error=end)
    return probes


def _end(code: int) -> str:
    if code >= 0:
        return f'exited Python with code {code}'
    return f'crashed Python with {signal.Signals(-code).name}'


def check_libraries(probes: Probes, packages: Packages) -> list[Finding]:
    """Return a finding for Python, mmmeta and each library."""
    from mmmeta.version import __version__

    version = '.'.join(map(str, sys.version_info[:3]))
    home = Path(__file__).parents[2]
    findings = [
        Finding('python', 'ok', f'{version}, {sys.executable}'),
        Finding('mmmeta', 'ok', f'{__version__}, {home}'),
    ]
    fixes: dict[str, str] = {}  # one fix for each error
    for name in LIBRARIES:
        findings.append(_check_library(name, probes[name], packages, fixes))
    return findings


def _check_library(
    name: str, probe: dict[str, Any], packages: Packages, fixes: dict[str, str]
) -> Finding:
    error = probe.get('error')
    if error is None:
        return Finding(name, 'ok', _describe(name, probe, packages))
    library = 'mmcv' if name == 'operators' else name
    if not owners(library, packages) and probe.get('missing') == library:
        mark = 'problem' if name in NEEDED else '-'
        fix = install_command(library, packages)
        fixes.setdefault(error, fix)
        return Finding(name, mark, 'not installed', fix)
    fix = fixes.setdefault(error, _fix(library, probe, packages))
    return Finding(name, 'problem', f'{MODULES[name]}: {error}', fix)


def _describe(name: str, probe: dict[str, Any], packages: Packages) -> str:
    if name == 'operators':
        mmcv = next(iter(owners('mmcv', packages)), 'mmcv')
        kind = f"torchvision's, since {mmcv} has no compiled ones"
        kind = 'compiled' if probe['compiled'] else kind
        return f'{kind}; nms is correct on {" and ".join(probe["devices"])}'
    owner = owners(name, packages)
    # Show the name of a distribution that differs, such as a fork's.
    other = f' ({owner[0]})' if owner and owner[0] != name else ''
    return f'{probe["version"]}{other}'


def _fix(name: str, probe: dict[str, Any], packages: Packages) -> str:
    """Return the command that fixes an import error."""
    error = probe['error']
    # The hosts' assertion: 'Please install mmcv>=2.0.0rc4, <2.2.0.'
    bounds = re.search(r'Please install (mm\w+)(>=\S+), ?(<\S+?)\.?$', error)
    if bounds:
        library, low, high = bounds.groups()
        wanted = preferred(library, packages)
        others = [owner for owner in owners(library, packages) if owner != wanted]
        remove = f'pip uninstall -y {" ".join(others)} && ' if others else ''
        return f"{remove}pip install '{wanted}{low},{high}'"
    if probe.get('missing') == 'mmcv._ext':
        if os.environ.get('MMMETA_MMCV_OPS') == '0':
            return 'unset MMMETA_MMCV_OPS'
        # Python did not process its .pth file on startup.
        return 'pip install --force-reinstall --no-deps mmmeta-backbones'
    missing = (probe.get('missing') or '').partition('.')[0]
    if missing and missing != name:
        return install_command(missing, packages)
    if name in ('mmcv', 'operators'):
        return _reinstall_mmcv(packages)
    if name == 'torchvision' and 'torch' in packages:
        # Each torchvision needs one torch version, and pip finds the matching one.
        version = packages['torch'].version.partition('+')[0]
        return f'pip install --force-reinstall torch=={version} torchvision'
    owner = next(iter(owners(name, packages)), name)
    return f'pip install --force-reinstall --no-deps {owner}'


def _reinstall_mmcv(packages: Packages) -> str:
    """Return the command for an mmcv without operators, to use torchvision's."""
    name = preferred('mmcv', packages)
    version = f'=={packages[name].version}' if name in packages else ''
    # pip's cache may contain the compiled wheel.
    return f'pip install --force-reinstall --no-deps --no-cache-dir {name}{version}'
