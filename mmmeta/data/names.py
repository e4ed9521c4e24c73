"""Reading lists of classes: names by index, by value or by color."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field

from mmmeta.data.faults import Faults
from mmmeta.data.model import Color
from mmmeta.data.text import read_text
from mmmeta.data.tree import Tree, base

LISTS = (
    *('classes.txt', 'labels.txt', 'class_names.txt', 'label_names.txt', 'names.txt'),
    *('codes.txt', 'labelmap.txt', '_classes.csv', 'class_dict.csv', 'classes.csv'),
    *('objectInfo150.csv', 'label_colors.txt', 'dataset.json', 'classes.json'),
)
# What the class of everything else is called.
BACKGROUND = {'background', '_background_', 'bg', 'unlabeled', 'unlabelled', 'void'}
_COLOR = re.compile(r'(?<!\d)(\d{1,3})[ ,\t]+(\d{1,3})[ ,\t]+(\d{1,3})(?!\d)')


@dataclass
class Names:
    """The classes that a file lists.

    Attributes:
        file: Its path; '' if there is none.
        names: By index.
        values: The value of each in a map, if the file says it.
        colors: The color of each in a map, if the file says it.
    """

    file: str = ''
    names: list[str] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    colors: list[Color] = field(default_factory=list)


def read_names(tree: Tree, faults: Faults) -> Names:
    """Return the classes of the first known file that is at the root or deeper."""
    rank = {name.lower(): i for i, name in enumerate(LISTS)}
    files = [name for name in tree.files if base(name).lower() in rank]
    files.sort(key=lambda name: (name.count('/'), rank[base(name).lower()]))
    for name in files:
        if name.endswith('.json'):
            found = _json(tree, name)
        elif name.endswith('.csv'):
            found = _table(read_text(tree, name, faults))
        else:
            found = _lines(read_list(tree, name, faults))
        if found.names:
            found.file = name
            return found
    return Names()


def read_list(tree: Tree, name: str, faults: Faults) -> list[str]:
    """Return the lines of a file that are neither empty nor comments."""
    lines = read_text(tree, name, faults).splitlines()
    return [line.strip() for line in lines if line.strip() and line.strip()[0] != '#']


def _json(tree: Tree, name: str) -> Names:
    try:
        content = json.loads((tree.root / name).read_bytes())
    except ValueError:
        return Names()
    names = content.get('classes') if isinstance(content, dict) else content
    return Names(names=[str(n) for n in names] if isinstance(names, list) else [])


def _lines(lines: list[str]) -> Names:
    """Return the classes of lines `name`, `name:r,g,b::` (CVAT) or `r g b name`."""
    found = Names()
    for line in lines:
        color = re.search(
            r'(?<!\d)(\d{1,3})[ ,\t]+(\d{1,3})[ ,\t]+(\d{1,3})(?!\d)', line
        )
        name = line.partition(':')[0]
        if color:
            found.colors.append((int(color[1]), int(color[2]), int(color[3])))
            rest = line[: color.start()] + line[color.end() :]
            name = rest.partition(':')[0].strip(' ,\t') or rest.strip(' :,\t')
        found.names.append(name.strip())
    if len(found.colors) != len(found.names):
        return Names(names=lines)
    return found


def _table(text: str) -> Names:
    """Return the classes of a table with a header: names, with values or colors."""
    try:
        dialect = csv.Sniffer().sniff(text.partition('\n')[0], ',;\t')
        rows = list(csv.reader(text.splitlines(), dialect))
    except csv.Error:
        rows = [[line] for line in text.splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows if any(row)]
    if not rows:
        return Names()
    head = [cell.lower() for cell in rows[0]]
    name = _column(head, 'name', 'class', 'label')
    value = _column(head, 'pixel value', 'value', 'idx', 'index', 'id')
    if name is None:
        return Names(names=[row[0] for row in rows])
    rows = [row for row in rows[1:] if len(row) > name]
    found = Names(names=[row[name] for row in rows])
    rgb = [_column(head, c, c[0]) for c in ('red', 'green', 'blue')]
    try:
        if value is not None:
            found.values = [int(row[value]) for row in rows]
        red, green, blue = rgb
        if red is not None and green is not None and blue is not None:
            found.colors = [
                (int(row[red]), int(row[green]), int(row[blue])) for row in rows
            ]
    except (ValueError, IndexError):
        return Names(names=found.names)
    return found


def _column(head: list[str], *names: str) -> int | None:
    """Return the place of the first known title."""
    return next((head.index(name) for name in names if name in head), None)
