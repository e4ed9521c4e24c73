"""The same annotations in each format give the same config, and the same training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tuning import tiny

import mmmeta

# Paths differ, and so do the lines that a long one is broken into.
PATHS = re.compile(r"dict\(\s*img='[^']*',?\s*\)|ann_file='[^']*'|(--\S+|py) /\S+")


def written(path: Path, work: Path, **options) -> tuple[str, dict[str, list]]:
    """Return the config without paths, and each split's objects by image."""
    mmmeta.finetune(path, work_dir=work, dry_run=True, method='retinanet', **options)
    text = (work / 'config.py').read_text()
    splits = {}
    for file in sorted((work / 'finetune_data').glob('*.json')):
        content = json.loads(file.read_text())
        boxes: dict[int, list] = {image['id']: [] for image in content['images']}
        for row in content['annotations']:
            boxes[row['image_id']].append([row['category_id'], *row['bbox']])
        sizes = [[i['width'], i['height']] for i in content['images']]
        names = [Path(i['file_name']).stem[-6:] for i in content['images']]
        splits[file.stem] = [names, sizes, *map(sorted, boxes.values())]
    return PATHS.sub('PATH', text), splits


@pytest.fixture(scope='module')
def expected(formats, tmp_path_factory):
    return written(formats('coco'), tmp_path_factory.mktemp('coco') / 'work')


@pytest.mark.parametrize('name', ['yolo', 'yolo-seg', 'voc', 'labelme'])
def test_the_same_config_and_boxes(name, formats, expected, tmp_path):
    text, splits = written(formats(name), tmp_path / 'work')
    assert text == expected[0]
    assert splits.keys() == expected[1].keys() == {'train', 'val'}
    for split, (names, sizes, *boxes) in splits.items():
        theirs = expected[1][split]
        assert [names, sizes] == theirs[:2]
        for one, other in zip(boxes, theirs[2:], strict=True):
            assert [row[0] for row in one] == [row[0] for row in other]
            if name in ('yolo', 'voc'):  # else, boxes are those of the outlines
                assert np.abs(np.subtract(one, other)).max() < 1e-5


def train(path: Path, work: Path) -> list[dict]:
    config = tiny.write(path, work, 'retinanet')
    assert tiny.train(config) == 0
    (log,) = work.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_same_training(formats, tmp_path):
    """Six steps and two validations: the same losses and the same AP."""
    runs = {}
    for name in ('coco', 'yolo', 'voc'):
        rows = train(formats(name), tmp_path / name)
        keys = ('loss', 'loss_cls', 'loss_bbox', 'coco/bbox_mAP', 'coco/bbox_mAP_50')
        runs[name] = [[row[key] for key in keys if key in row] for row in rows]
        assert [len(row) for row in runs[name]] == [3, 3, 3, 2, 3, 3, 3, 2]
    assert runs['voc'] == runs['coco']
    for row, other in zip(runs['yolo'], runs['coco'], strict=True):
        assert row == pytest.approx(other, rel=1e-4)
