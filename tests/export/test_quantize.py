"""Files in int8, in batches, and for Model API find what the model finds."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tiny_models import write_model

from mmmeta.cli import main
from mmmeta.commands.export.accuracy import BoxMeasure, ClassMeasure, MapMeasure
from mmmeta.errors import UserError
from mmmeta.export.compare import agreement
from mmmeta.export.files import convert_to_openvino, write_pt2
from mmmeta.export.quantize import quantize_onnx
from mmmeta.runtime import Detections, LabelMap, Probabilities, open_model

SIZES = (64, 64), (64, 64), (80, 50), (80, 50), (80, 50)


def model_api() -> ModuleType:
    """Model API, whose release for Python 3.10 is an older one."""
    return pytest.importorskip('model_api.models')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Images with edges."""
    folder = tmp_path_factory.mktemp('images')
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
        pixels = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def pictures(folder) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob('*.png'))]


@pytest.fixture(scope='module')
def annotations(folder, tmp_path_factory) -> Path:
    """An object in each image, and ids with gaps."""
    images = [
        dict(id=10 + 3 * i, file_name=f'{i}.png', width=w, height=h)
        for i, (w, h) in enumerate(SIZES)
    ]
    objects = [
        dict(id=i, image_id=x['id'], category_id=7, bbox=[5, 5, 30, 30], area=900)
        for i, x in enumerate(images, 1)
    ]
    categories = [dict(id=i, name=name) for i, name in ((7, 'b'), (3, 'a'), (9, 'c'))]
    content = dict(images=images, categories=categories)
    content['annotations'] = [dict(x, iscrowd=0) for x in objects]
    path = tmp_path_factory.mktemp('annotations') / 'coco.json'
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> list[str]:
    names = dict(classes=('a', 'b', 'c'))
    return write_model(tmp_path_factory.mktemp('model'), 'detection', 3, names)


@pytest.fixture(scope='module')
def plain(detector, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp('plain') / 'model.onnx'
    assert main(['export', *detector, '-o', str(file)]) == 0
    return file


def test_int8_of_onnx_in_batches(
    detector, plain, folder, annotations, pictures, tmp_path, capsys
):
    file = tmp_path / 'model.onnx'
    options = ['--int8', '--calibrate', str(folder), '--batch-size', '2']
    options += ['--annotations', str(annotations), '-o', str(file)]
    assert main(['export', *detector, *options]) == 0
    out = capsys.readouterr().out
    assert '100.00 % of 40 detections agree' in out
    assert 'after quantization to int8: ' in out
    assert 'box AP on 5 images: ' in out
    graph = onnx.load(file).graph
    assert not any(node.metadata_props for node in graph.node)  # paths of sources
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = Counter(
        made_by[node.input[0]].op_type == 'DequantizeLinear'
        for node in graph.node
        if node.op_type == 'Conv'
    )
    # The heads' last layers, cls and reg, of three levels.
    assert kinds[False] == 6 and kinds[True] > 10
    model, float_model = open_model(file), open_model(plain)
    assert model.batch_size == 2 and float_model.batch_size == 1
    together = model.run(pictures)
    for image, found in zip(pictures, together, strict=True):
        alone = model(image)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        # Random weights: scores are close to each other, so the order may differ.
        expected = float_model(image)
        assert abs(found.scores.max() - expected.scores.max()) < 0.05


def test_a_full_disk(plain, pictures, tmp_path, limit):
    """The libraries do not say it, or write half a file without a word."""
    file = Path(shutil.copy(plain, tmp_path))
    limit(file.stat().st_size // 2)
    with pytest.raises(UserError, match=r'cannot quantize .* is the disk full\?'):
        quantize_onnx(file, [], pictures)
    with pytest.raises(UserError, match=r'cannot write m\.xml .* is the disk full\?'):
        convert_to_openvino(plain, tmp_path / 'm.xml', {})


def test_pytorch_survives_a_full_disk(tmp_path, limit):
    program = torch.export.export(torch.nn.Linear(99, 99), (torch.zeros(1, 99),))
    limit(9000)
    with pytest.raises(OSError, match='File too large'):
        write_pt2(program, tmp_path / 'm.pt2', {})


def test_int8_of_openvino_for_model_api(detector, folder, pictures, tmp_path):
    create = model_api().Model.create_model
    file = tmp_path / 'model.xml'
    options = ['--int8', '--calibrate', str(folder), '--model-api', '-o', str(file)]
    assert main(['export', *detector, *options]) == 0
    options = dict(confidence_threshold=0.0)
    wrapper = create(str(file), configuration=options)
    found, expected = wrapper(pictures[2]), open_model(file)(pictures[2])
    assert len(found.labels) > 2 and set(found.label_names) <= {'a', 'b', 'c'}
    near = [np.abs(expected.boxes - box).max(1).min() for box in found.bboxes]
    # It rounds, and computes in bfloat16 where it can.
    assert np.median(near) < 1.5


@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_model_api(task, pictures, tmp_path):
    create = model_api().Model.create_model
    model = write_model(tmp_path, task, 3, dict(classes=('x y', 'b', 'c')))
    file = tmp_path / 'model.xml'
    assert main(['export', *model, '--model-api', '-o', str(file)]) == 0
    found, expected = (
        create(str(file))(pictures[2]),
        open_model(file)(pictures[2]),
    )
    if task == 'segmentation':
        assert (found.resultImage == expected.labels).mean() > 0.95
    else:
        (best,) = found.top_labels
        assert best.id == expected.values.argmax()
        assert best.name == ('x_y', 'b', 'c')[best.id]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--int8'], '--int8 needs --calibrate FOLDER, with images like'),
        (['--calibrate', 'x'], '--calibrate is for --int8'),
        (['--int8', '--half', '--calibrate', 'x'], 'together are for openvino'),
        (['--int8', '--calibrate', 'empty'], 'empty is a folder without images'),
        (['--annotations', 'x'], '--annotations needs --images FOLDER'),
        (['--model-api'], '--model-api is for openvino'),
    ],
)
def test_options(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    words = ['export', 'c.py', 'm.pth', '-o', 'm.onnx', *options]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / 'm.onnx').exists()


@pytest.mark.parametrize('options', [[], ['--format', 'auto']])
def test_the_default_format_is_openvino_where_it_is_installed(
    options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ['export', 'c.py', 'm.pth', '--model-api', *options]
    assert main(words) == 1
    assert 'c.py' in capsys.readouterr().err  # there is no such config
    monkeypatch.setattr('mmmeta.commands.export.find_spec', lambda name: None)
    assert main(words) == 1
    assert '--model-api is for openvino' in capsys.readouterr().err


# -- accuracy ---------------------------------------------------------------------


def test_box_ap(folder, annotations):
    paths = sorted(folder.iterdir())
    for score, shift, expected in ((0.9, 0, 100.0), (0.9, 100, 0.0)):
        measure = BoxMeasure(annotations, paths, ('a', 'b', 'c'))
        assert measure.paths == paths
        box = np.array([[5, 5, 35, 35]], np.float32) + shift
        for i in range(len(paths)):
            measure.add(i, Detections(box, np.array([score]), np.array([1])))
        assert measure.figures() == {'box AP': pytest.approx(expected)}
    with pytest.raises(UserError, match="has no 'd'"):
        BoxMeasure(annotations, paths, ('a', 'd'))


@pytest.mark.parametrize('reduced', [False, True])
def test_mean_iou_is_mmsegmentations(reduced, folder, tmp_path):
    from mmseg.evaluation import IoUMetric

    random = np.random.default_rng(1)
    paths = sorted(folder.iterdir())
    shapes = [(h, w) for w, h in SIZES]
    for path, shape in zip(paths, shapes, strict=True):
        truth = random.integers(0, 4, shape).astype(np.uint8)
        Image.fromarray(truth).save(tmp_path / path.name)
    measure = MapMeasure(tmp_path, paths, ('a', 'b', 'c'), reduced)
    areas = []
    for i, shape in enumerate(shapes):
        import torch

        labels = random.integers(0, 3, shape)
        truth = np.array(Image.open(tmp_path / paths[i].name)).astype(np.int64)
        truth = truth - 1 if reduced else truth
        truth[(truth < 0) | (truth > 2)] = 255
        measure.add(i, LabelMap(labels))
        areas.append(
            IoUMetric.intersect_and_union(
                torch.from_numpy(labels), torch.from_numpy(truth), 3, 255
            )
        )
    intersect, union = (sum(x).numpy() for x in list(zip(*areas, strict=True))[:2])
    expected = 100 * (intersect / union).mean()
    assert measure.figures() == {'mIoU': pytest.approx(expected)}


def test_top_1(tmp_path):
    paths = [tmp_path / name for name in ('b/1.png', 'a/2.png', 'other/3.png')]
    measure = ClassMeasure(tmp_path, paths, ('a', 'b'))
    assert measure.paths == paths[:2]
    for i in range(2):
        measure.add(i, Probabilities(np.array([0.2, 0.8])))
    assert measure.figures() == {'top-1': 50.0}


def test_results_that_differ_do_not_agree():
    boxes, labels = np.array([[1, 2, 30, 40], [5, 5, 9, 9]]), np.array([0, 1])
    a = Detections(boxes, np.array([0.9, 0.8]), labels)
    b = Detections(boxes, np.array([0.9, 0.5]), labels)
    assert agreement([a], [a]).share == 1
    assert agreement([a], [b]).share == 0.5
    masks = np.zeros((2, 9, 9), bool)
    masks[0, :5] = True
    other = masks.copy()
    other[0, 3:] = False
    found = [replace(a, masks=x) for x in (masks, other)]
    assert agreement(found[:1], found[:1]).share == 1
    assert agreement(found[:1], found[1:]).share == 0.5
