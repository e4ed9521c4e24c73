"""Dependencies between the folders of the package go one way.

commands -> export, hosts, datasets, optimized -> models -> ops, weights -> archs
"""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

BASE = {'errors', 'registry', 'version'}  # may be imported anywhere
# Folders and top-level files of the package, and what else they may import.
ALLOWED = {
    # Imported on first use, by name; only type checkers see these imports.
    '__init__': {'hosts', 'models', 'optimized', 'tuning', 'weights'},
    'cli': {'commands', 'hosts'},
    'utils': {'models'},
    'commands': {
        *('hosts', 'datasets', 'optimized', 'models', 'weights', 'ops', 'archs'),
        *('export', 'runtime', 'data', 'tuning'),
    },
    'export': {'hosts', 'models', 'weights', 'runtime'},
    'runtime': set(),  # neither PyTorch nor what needs it
    'hosts': {'models', 'weights', 'ops', 'runtime'},
    'data': {'hosts', 'runtime'},  # of hosts, what needs no PyTorch
    'datasets': {'data'},
    'tuning': {'data', 'hosts', 'weights', 'archs'},
    'optimized': {'models', 'ops'},
    'models': {'ops', 'weights', 'archs'},
    'ops': set(),
    'weights': {'archs'},
    'archs': set(),
    **{name: set() for name in BASE},
}
FEWEST = 100  # minimum number of internal imports


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and name of everything that a file of `package` imports.

    Imports in functions and for type checkers are included; a name imported
    from a package is given as part of it because it may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package itself, each further dot its parent.
            above = package.rsplit('.', node.level - 1)[0] if node.level else ''
            module = '.'.join(filter(None, (above, node.module)))
            yield from ((node.lineno, f'{module}.{a.name}') for a in node.names)


def room(name: str, root: Path) -> str:
    """Return the folder or top-level file of a module of the package."""
    first = name.split('.')[1] if '.' in name else ''
    known = (root / first).is_dir() or (root / f'{first}.py').is_file()
    return first if first and known else '__init__'


@pytest.fixture(scope='module')
def edges(root) -> dict[tuple[str, str], list[str]]:
    """Return the importing lines for each pair of folders."""
    package = root / 'mmmeta'
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(package.rglob('*.py')):
        parts = file.relative_to(package).parts
        if parts[0].startswith('.'):  # .mim, with links to files outside the package
            continue
        here = parts[0].removesuffix('.py')
        inside = '.'.join(['mmmeta', *parts[:-1]])
        for line, name in imported(ast.parse(file.read_text()), inside):
            if name == 'mmmeta' or name.startswith('mmmeta.'):
                there = room(name, package)
                place = f'{file.relative_to(root)}:{line}'
                places = found.setdefault((here, there), [])
                if place not in places:  # several names in one line
                    places.append(place)
    return found


def test_all_imports_are_seen(edges):
    assert sum(map(len, edges.values())) > FEWEST
    for edge in (('commands', 'hosts'), ('hosts', 'models'), ('models', 'weights')):
        assert edge in edges
    # Only in functions and for type checkers.
    assert any('writers.py' in place for place in edges['commands', 'hosts'])
    assert any('utils.py' in place for place in edges['utils', 'models'])
    code = 'from . import a\nfrom ..ops import b\nfrom .c import d\nimport e.f as g'
    assert [name for _, name in imported(ast.parse(code), 'mmmeta.models')] == [
        *('mmmeta.models.a', 'mmmeta.ops.b', 'mmmeta.models.c.d', 'e.f')
    ]


def test_no_circle_between_folders(edges):
    onward: dict[str, set[str]] = {}
    for here, there in edges:
        if here != there:
            onward.setdefault(here, set()).add(there)
    done: set[str] = set()

    def walk(path: list[str]) -> None:
        for there in sorted(onward.get(path[-1], ())):
            if there in path:
                circle = [*path[path.index(there) :], there]
                lines = '\n'.join(
                    f'{a} -> {b}: {", ".join(edges[a, b])}' for a, b in pairwise(circle)
                )
                pytest.fail(f'{" -> ".join(circle)}\n{lines}', pytrace=False)
            if there not in done:
                walk([*path, there])
        done.add(path[-1])

    for start in sorted(onward):
        walk([start])


def test_arrows_go_one_way(edges):
    wrong = [
        f'{here} -> {there}: {", ".join(places)}'
        for (here, there), places in sorted(edges.items())
        if here != there and there not in ALLOWED.get(here, set()) | BASE
    ]
    if wrong:
        pytest.fail('\n'.join(wrong), pytrace=False)
