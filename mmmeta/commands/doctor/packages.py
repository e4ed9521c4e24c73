"""Checks of the installed distributions' metadata, without importing them."""

import re
from importlib import metadata

from mmmeta.commands.doctor.finding import Finding

# name: the distributions that provide it. Only one may be installed because they
# install the same files: the first, unless the other host libraries are of the second
# kind.
OWNERS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite', 'mmcv', 'mmcv-full'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'cv2': (
        'opencv-python-headless',
        'opencv-python',
        'opencv-contrib-python-headless',
        'opencv-contrib-python',
    ),
    'mmmeta': ('mmmeta-backbones', 'mmmeta'),
}
HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
# These are not single features.
NO_EXTRAS = {'backbones', 'onedl', 'openmmlab', 'all', 'test', 'dev'}

Packages = dict[str, metadata.Distribution]


def read_packages() -> Packages:
    """Return the installed distributions by their normalized names."""
    found: Packages = {}
    for package in metadata.distributions():
        # A partially removed distribution has no name.
        name = package.metadata['Name'] if package.metadata else None
        if name:
            found.setdefault(_normalized(name), package)
    return found


def _normalized(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def owners(name: str, packages: Packages) -> list[str]:
    """Return the installed distributions that provide a library."""
    return [owner for owner in OWNERS.get(name, (name,)) if owner in packages]


def preferred(name: str, packages: Packages) -> str:
    """Return the distribution of a library that matches the other host libraries."""
    choices = OWNERS.get(name, (name,))
    if name not in HOSTS:
        return choices[0]
    kinds = [
        OWNERS[host].index(o[0])
        for host in HOSTS
        if len(o := owners(host, packages)) == 1
    ]
    upstream = sum(kind > 0 for kind in kinds) > len(kinds) / 2
    return choices[1 if upstream else 0]


def install_command(name: str, packages: Packages) -> str:
    """Return the command that installs a library."""
    if name == 'mmengine':
        kind = 'onedl' if preferred(name, packages).startswith('onedl') else 'openmmlab'
        return f"pip install 'mmmeta-backbones[{kind}]'"
    return f'pip install {preferred(name, packages)}'


def check_packages(packages: Packages) -> list[Finding]:
    """Return findings about conflicts between distributions."""
    return [
        *_check_owners(packages),
        *_check_transformers(packages),
        *_check_requirements(packages),
    ]


def _check_owners(packages: Packages) -> list[Finding]:
    findings = []
    for name in OWNERS:
        several = owners(name, packages)
        if len(several) < 2:
            continue
        what = ' and '.join(f'{p} {packages[p].version}' for p in several)
        remove = f'pip uninstall -y {" ".join(several)}'
        findings.append(
            Finding(
                name,
                'warning' if name == 'cv2' else 'problem',
                f'{what} are both installed and have the same files',
                f'{remove} && {install_command(name, packages)}',
            )
        )
    return findings


def _check_transformers(packages: Packages) -> list[Finding]:
    package, hosts = packages.get('transformers'), owners('mmpretrain', packages)
    if not package or not hosts:
        return []
    # The original imports names that transformers 4.56 removed.
    bound = '5' if hosts[0].startswith('onedl') else '4.56'
    if _numbers(package.version) < _numbers(bound):
        return []
    text = f'MMPretrain cannot be imported with transformers {package.version}'
    return [
        Finding('transformers', 'problem', text, f"pip install 'transformers<{bound}'")
    ]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', version)]


def _check_requirements(packages: Packages) -> list[Finding]:
    """Find versions outside the bounds that mmmeta and the host libraries declare."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:  # not a guaranteed dependency of any library
        return []
    findings = []
    for owner in [o for name in ('mmmeta', *HOSTS) for o in owners(name, packages)]:
        for text in packages[owner].requires or []:
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                continue
            package = packages.get(_normalized(needed.name))
            applies = not needed.marker or any(
                needed.marker.evaluate({'extra': extra}) for extra in ('', 'backbones')
            )
            if not (package and applies):
                continue
            if not needed.specifier.contains(package.version, prereleases=True):
                bounds = f'{needed.name}{needed.specifier}'
                found = f'{owner} needs {bounds}, found {package.version}'
                fix = f"pip install '{bounds}'"
                findings.append(Finding(needed.name, 'problem', found, fix))
    return findings


def check_extras(packages: Packages) -> list[Finding]:
    """Return whether the packages of each of mmmeta's extras are installed."""
    own = packages.get('mmmeta-backbones')
    if own is None:
        text = 'not installed as a distribution: its extras are unknown'
        return [Finding('extras', '-', text, 'pip install --no-deps -e .')]
    findings = []
    for extra in own.metadata.get_all('Provides-Extra') or []:
        if extra in NO_EXTRAS:
            continue
        pattern = rf'([\w.-]+).*;\s*extra == ["\']{extra}["\']'
        matches = [re.match(pattern, text) for text in own.requires or []]
        names = [_normalized(match[1]) for match in matches if match]
        missing = [name for name in names if name not in packages]
        if missing:
            text = f'not installed: {", ".join(missing)}'
            fix = f"pip install 'mmmeta-backbones[{extra}]'"
            findings.append(Finding(f'[{extra}]', '-', text, fix))
        else:
            text = ', '.join(f'{name} {packages[name].version}' for name in names)
            findings.append(Finding(f'[{extra}]', 'ok', text))
    return findings
