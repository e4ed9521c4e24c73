"""Data sets of which one file was changed: what they say, or one clear error."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from data_sets import making
from generated.examples import ODD, generated
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_model

from mmmeta.cli import main

FORMATS = ('coco', 'yolo', 'voc', 'labelme', 'png', 'folders')
VALUES = st.sampled_from(
    [*ODD, 1e300, -(10**30), '1e5', '../x.jpg', 'a\nb', '\udc80', [[0, 0, 9, 9, 0, 9]]]
)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('whole')
    return {name: getattr(making, name)(folder / name / 'data') for name in FORMATS}


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the way to each value inside of JSON."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found += [p for key, x in items for p in places(x, (*path, key))]
    return found


def change_json(draw: Any, content: Any) -> Any:
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(content)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        inner = content
        for key in way:
            inner = inner[key]
        how = draw(st.sampled_from(['replace', 'delete', 'repeat']))
        if how == 'replace':
            inner[last] = copy.deepcopy(draw(VALUES))
        elif how == 'delete':
            del inner[last]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
    return content


def change_bytes(draw: Any, content: bytes) -> bytes:
    changed = bytearray(content)
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, min(len(content), start + 40)))
    changed[start:stop] = draw(st.binary(max_size=6) | st.just(b'-1') | st.just(b'nan'))
    return bytes(changed)


def report(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, dict]:
    """Run `mmmeta data`; what it prints is JSON or one line of error."""
    capsys.readouterr()
    status = main(['data', *map(str, words), '--json'])
    out, err = capsys.readouterr()
    if out:
        facts = json.loads(out)
        assert status == any(x['severity'] == 'error' for x in facts['problems'])
        return status, facts
    assert status == 1 and err.startswith('mmmeta data: ') and err.count('\n') == 1, err
    return status, {}


def counts(facts: dict) -> dict:
    return {
        split: (part['images'], {k: v for k, v in part['counts'].items() if v})
        for split, part in facts['splits'].items()
    }


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> list[str]:
    names = dict(classes=making.NAMES)
    return write_model(tmp_path_factory.mktemp('model'), 'detection', 2, names)


@generated
@given(st.data())
def test_any_annotation_file_of_predict(whole, detector, tmp_path, capsys, data):
    """Detections have the ids of the file, or one line says what is wrong with it."""
    content = json.loads((whole['coco'] / 'annotations/instances_val.json').read_text())
    del content['annotations']
    content = change_json(data.draw, content)
    (tmp_path / 'x.json').write_text(json.dumps(content))
    out = tmp_path / 'out'
    shutil.rmtree(out, ignore_errors=True)
    words = ['predict', *detector, str(whole['coco'] / 'val'), '--no-vis', '--out-dir']
    capsys.readouterr()
    status = main([*words, str(out), '--ann-file', str(tmp_path / 'x.json')])
    err = capsys.readouterr().err
    if status:
        assert err.startswith('mmmeta predict: ') and err.count('\n') == 1, err
        assert not (out / 'detections.json').exists()
        return
    images, categories = (
        {row[name]: row['id'] for row in content[key]}
        for key, name in (('images', 'file_name'), ('categories', 'name'))
    )
    written = json.loads((out / 'images.json').read_text())
    assert written['images'] and written['categories']
    for image in written['images']:
        assert images[image['file_name']] == image['id']
    for category in written['categories']:
        assert categories[category['name']] == category['id']
    for found in json.loads((out / 'detections.json').read_text()):
        assert found['image_id'] in images.values()
        assert found['category_id'] in categories.values()


@generated
@given(st.sampled_from(FORMATS), st.data())
def test_any_change_of_one_file(whole, tmp_path, capsys, name, data):
    root, new = tmp_path / 'data', tmp_path / 'new'
    for folder in (root, new):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole[name], root)
    files = sorted(path for path in root.rglob('*') if path.is_file())
    texts = [path for path in files if path.suffix != '.jpg']
    path = data.draw(st.sampled_from(texts or files))
    if path.suffix == '.json' and data.draw(st.booleans()):
        content = change_json(data.draw, json.loads(path.read_text()))
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(change_bytes(data.draw, path.read_bytes()))

    picture = tmp_path / 'picture.png'
    _, facts = report(capsys, root, '--picture', picture)
    if not facts:
        return
    to = data.draw(st.sampled_from(['coco', 'png']))
    _, written = report(capsys, root, '--to', to, '-o', new)
    assert new.exists() == bool(written)
    if written and to == 'coco':
        _, again = report(capsys, new)
        if name != 'png' and not written['lost']:  # pixels become objects
            assert counts(again) == counts(facts)
