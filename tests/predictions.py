"""Running `mmmeta predict` in this process, and reading what it writes."""

import csv
import io
import json
from pathlib import Path

from mmmeta.cli import main


def predict(*arguments: object, out: Path) -> int:
    words = [*map(str, arguments), '--out-dir', str(out), '--device', 'cpu']
    return main(['predict', *words])


def rows_of(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode('utf-8', 'surrogateescape')
    return list(csv.DictReader(io.StringIO(text, newline='')))


def strictly(path: Path) -> object:
    """Return what a JSON file has, which may not be NaN."""

    def refuse(text: str) -> None:
        raise AssertionError(f'{text} is no JSON')

    return json.loads(path.read_text(), parse_constant=refuse)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
