"""What `mmmeta demo` shows is what the model says, whatever its classes are called."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from tiny_models import write_model

from mmmeta.cli import main
from mmmeta.commands.demo.engine import Engine, Prediction
from mmmeta.commands.demo.found import find_models, make_model
from mmmeta.runtime import Detections, LabelMap, Probabilities

gr = pytest.importorskip('gradio')


@pytest.fixture
def image() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (40, 48, 3), np.uint8)


def predict(folder, image, task: str, classes: int, **options: object) -> Prediction:
    model = make_model(*write_model(folder, task, classes, **options))
    return Engine('cpu').predict(model, image)


def test_scores_have_numbers_where_names_lack(tmp_path, image):
    from mmmeta.commands.demo.drawing import scores

    meta = dict(classes=('cat', 'cat', ''))
    found = predict(tmp_path, image, 'classification', 5, meta=meta)
    top = scores(found, found.result)
    assert list(top) == ['cat (0)', 'cat (1)', '2', '3', '4']
    assert list(top.values()) == found.result.values.tolist()
    meta = dict(classes=tuple('abcdef'))
    found = predict(tmp_path, image, 'classification', 2, meta=meta)
    assert list(scores(found, found.result)) == ['a', 'b']


def test_scores_that_are_no_numbers_are_said(tmp_path, image):
    from mmmeta.commands.demo.drawing import scores

    def spoil(model: torch.nn.Module) -> None:
        model.head.fc.weight.data.fill_(3e38)

    found = predict(tmp_path, image, 'classification', 2, change=spoil)
    with pytest.raises(ValueError, match='NaN or infinite among the scores'):
        scores(found, found.result)


@pytest.mark.parametrize('one_output', [False, True])
def test_the_legend_has_numbers_where_names_lack(one_output, tmp_path, image):
    from mmmeta.commands.demo.drawing import describe, draw

    def last(model: torch.nn.Module) -> None:
        model.decode_head.conv_seg.bias.data[-1] = 1000.0

    extra = 'model["decode_head"].update(out_channels=1, threshold=0.5)\n'
    meta = dict(classes=('circle',))
    found = predict(
        tmp_path,
        image,
        'segmentation',
        2 if one_output else 7,
        meta=meta,
        change=last,
        extra=extra if one_output else '',
    )
    assert f'</span>{1 if one_output else 6} 100.0 %' in describe(found, 0)
    assert draw(found, 0).shape == (40, 48, 3)
    model = make_model(*(str(tmp_path / f'segmentation.{e}') for e in ('py', 'pth')))
    pixel = Engine('cpu').predict(model, image[:1, :1])
    assert draw(pixel, 0).shape == (1, 1, 3)


def test_objects_are_counted_where_they_cannot_be_drawn(tmp_path, image, monkeypatch):
    from gradio.route_utils import delete_files_created_by_app

    from mmmeta.commands.demo import drawing
    from mmmeta.commands.demo.page import Page

    meta = dict(classes=('$a$\\x$',))
    files = write_model(tmp_path, 'detection', 2, meta)
    model = make_model(*files)
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    page = Page(Engine('cpu'), [model], list, [], False)
    page.open()
    monkeypatch.setattr('mmmeta.commands.demo.page.open_image', lambda path: image)
    status, picture, _, summary, _ = page.run(model.key, None, 0)
    assert '<strong>8 objects</strong>' in summary and 'Model: ' in status
    # Others may be reading the same picture while this one is written.
    again = page.run(model.key, None, 0)[1]
    assert again != picture and Path(again).read_bytes() == Path(picture).read_bytes()
    assert Image.open(picture).size == (672, 560)
    delete_files_created_by_app(page.blocks, None)  # as Gradio does in time
    assert not Path(picture).exists()

    def fail(*_: object) -> None:
        raise ValueError('no font')

    monkeypatch.setattr(drawing, 'draw', fail)
    status, picture, _, summary, again = page.run(model.key, None, 0)
    assert 'Model: ' in status and picture is None and again is not None
    assert '<strong>8 objects</strong>' in summary and 'no font' in summary


def test_masks_are_outlined_and_odd_objects_are_shown(image):
    from mmmeta.commands.demo.drawing import describe, draw

    masks = np.zeros((3, 40, 48), bool)
    masks[0, 10:30, 10:30] = True
    found = Detections(
        np.array([[5, 5, 35, 35], [40, 30, 60, 60], [0, 0, 9, 9]], np.float32),
        np.array([0.9, 0.8, np.nan], np.float32),
        np.array([0, 9, 0]),  # the second is of a class without a name
        masks,
    )
    palette = ((0, 0, 0), (9, 9, 9))
    prediction = Prediction(image, found, ('<b>', 'c'), palette, 1.0, 'cpu', None)
    text = describe(prediction, 0.1)
    assert text.startswith('<strong>2 objects</strong>')
    assert text.endswith(': 1 &lt;b&gt;, 1 9')
    picture = draw(prediction, 0.1)
    assert picture.shape == (560, 672, 3)
    # Of the mask, 14 times as large: its color, and its border.
    plain = np.asarray(Image.fromarray(image).resize((672, 560), Resampling.BICUBIC))
    inside = (slice(200, 400), slice(200, 400))
    np.testing.assert_allclose(picture[inside], 0.4 * plain[inside], atol=0.51)
    assert (picture[300, [140, 419]] == 255).all()


def test_folders_that_are_half_there_are_no_obstacle(tmp_path):
    for name in (b'a\xff', b'links'):
        (tmp_path / 'w' / name.decode('utf-8', 'surrogateescape')).mkdir(parents=True)
    odd = tmp_path / 'w' / 'a\udcff'
    write_model(odd, 'classification', 2)
    (tmp_path / 'w/links/config.py').symlink_to('nothing')
    models, left_out = find_models(tmp_path / 'w')
    assert [model.label for model in models] == [
        'classification (a\\xff/classification.pth)'
    ]
    assert left_out == []
    models[0].key.encode()


def test_exported_files_are_found_beside_their_model(tmp_path, image):
    (tmp_path / 'w/a').mkdir(parents=True)
    words = write_model(tmp_path / 'w/a', 'segmentation', 3)
    assert main(['export', *words, '-o', str(tmp_path / 'w/a/model.pt2')]) == 0
    (tmp_path / 'w/a/other.onnx').write_bytes(b'no model')
    models, left_out = find_models(tmp_path / 'w')
    assert [(model.label, model.task) for model in models] == [
        ('segmentation (a/segmentation.pth)', 'segmentation'),
        ('a/model.pt2', 'segmentation'),
    ]
    assert len(left_out) == 1 and 'other.onnx cannot be read' in left_out[0]
    engine = Engine('cpu')
    trained, exported = (engine.predict(model, image) for model in models)
    assert trained.classes == exported.classes
    assert trained.palette == exported.palette
    same = trained.result.labels == exported.result.labels
    assert same.shape == (40, 48) and same.mean() > 0.98


def test_larger_classes_of_a_map_are_named():
    from mmmeta.runtime.drawing import draw, mixed

    model = SimpleNamespace(classes=('sky', 'ant'), palette=((0, 90, 0), (90, 0, 0)))
    image, labels = np.zeros((100, 200, 3), np.uint8), np.zeros((100, 200), np.int64)
    labels[0, 0] = 1  # too small for its name

    def named(labels: np.ndarray) -> np.ndarray:
        plain = mixed(image, np.array(model.palette)[labels])
        return np.argwhere((draw(model, image, LabelMap(labels), 0) != plain).any(-1))

    (top, left), (bottom, right) = named(labels).min(0), named(labels).max(0)
    assert top < 55 and bottom > 50 and left < 105 and right > 100  # in the middle
    assert len(named(labels)) < 1000
    labels[:, :100] = 1
    assert named(labels)[:, 1].min() < 60 and named(labels)[:, 1].max() > 150


@pytest.mark.parametrize('shape', [(1, 5000), (2, 300), (40, 40), (300, 400)])
def test_pictures_of_classifiers_are_legible_and_not_huge(shape):
    from mmmeta.runtime.drawing import draw

    model = SimpleNamespace(classes=('a', 'b'), palette=((0, 0, 0), (9, 9, 9)))
    image = np.zeros((*shape, 3), np.uint8)
    found = draw(model, image, Probabilities(np.array([0.2, 0.8], np.float32)), 0)
    assert max(found.shape) <= max(4096, *shape)
    assert min(found.shape[:2]) >= 256 or max(found.shape) >= 4096
