"""Reading text files of any encoding, and the JSON and YAML in them."""

from __future__ import annotations

import codecs
import json
from typing import Any

from mmmeta.data.faults import ERROR, Faults
from mmmeta.data.tree import Tree
from mmmeta.errors import one_line, require

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(tree: Tree, name: str, faults: Faults, severity: str = '') -> str:
    """Return the content of a text file; another encoding than UTF-8 is a fault.

    Args:
        tree: Has the file.
        name: Its path in the tree.
        faults: Gets the fault.
        severity: Of another encoding. Default: that of its kind, a warning.

    Raises:
        OSError: It cannot be read.
    """
    text, remark = decode((tree.root / name).read_bytes())
    if remark:
        faults.add('encoding', name, '', remark, severity)
    return text


def decode(content: bytes) -> tuple[str, str]:
    """Return text and what is unusual about its encoding, or ''."""
    if content.startswith(codecs.BOM_UTF8):
        return content.decode('utf-8-sig', 'replace'), 'it begins with a BOM'
    if content.startswith(UTF16):
        return content.decode('utf-16', 'replace'), 'it is UTF-16'
    for code, offset in (('utf-16-le', 1), ('utf-16-be', 0)):
        # Every other byte of English text is 0.
        if len(content) > 3 and content[offset : offset + 40 : 2].strip(b'\0') == b'':
            return content.decode(code, 'replace'), 'it is UTF-16 without BOM'
    try:
        return content.decode(), ''
    except UnicodeDecodeError:
        return content.decode('latin-1'), 'it is read as Latin-1'


def read_json(tree: Tree, name: str, faults: Faults) -> Any:
    """Return the content of a JSON file, None if it cannot be read.

    That, and an encoding that Python's own reading does not take, is a fault.
    """
    try:
        return json.loads(read_text(tree, name, faults, ERROR))
    except (OSError, ValueError, RecursionError) as error:
        faults.add('file-unreadable', name, '', one_line(error))
        return None


def read_yaml(tree: Tree, name: str, faults: Faults) -> Any:
    """Return the content of a YAML file, None if it cannot be read, which is a fault.

    All values are text, since a class may be called `no`, which is a truth value.

    Raises:
        MissingLibraryError: PyYAML is not installed.
    """
    yaml = require('yaml', 'data', 'reading data.yaml')
    try:
        return yaml.load(read_text(tree, name, faults), yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        faults.add('file-unreadable', name, '', one_line(error))
        return None


def sniff(tree: Tree, name: str, size: int = 1 << 16) -> str:
    """Return the beginning and the end of a text file; '' if it cannot be read."""
    try:
        with (tree.root / name).open('rb') as file:
            content = file.read(size)
            if len(content) == size:
                file.seek(0, 2)
                file.seek(max(size, file.tell() - size))
                content += file.read()
    except OSError:
        return ''
    return content.replace(b'\0', b'').decode('latin-1')  # of UTF-16, too
