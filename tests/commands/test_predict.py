"""`mmmeta predict` compared with the host libraries' own results."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import mmmeta
from mmmeta.cli import main
from mmmeta.datasets import CLASSES

DETECTOR = 'configs/detection/mask_rcnn_poolformer_s12_shapes.py'
SEGMENTOR = 'configs/segmentation/semantic_fpn_poolformer_s12_shapes.py'
CLASSIFIER = 'configs/classification/poolformer_s12.py'
ALL_SCORES = 'model.test_cfg.rcnn.score_thr=0.0'  # random weights give low ones
FEW = 'model.test_cfg.rcnn.max_per_img=6'


@pytest.fixture(scope='module')
def images(shapes: Path, tmp_path_factory) -> Path:
    """A folder with three images, two of them with the same name."""
    folder = tmp_path_factory.mktemp('images')
    sources = sorted((shapes / 'images' / 'val').iterdir())
    for source, name in zip(sources, ('a/x.png', 'b/x.png', 'b/y.png'), strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        picture = Image.open(source)
        # Not square, so that swapped height and width are noticed.
        picture.crop((0, 0, 128, 96)).save(folder / name)
    return folder


def save_checkpoint(config: Path, path: Path, meta: dict) -> Path:
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    __import__(f'{cfg.default_scope}.models')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    # The last layers' initial weights are too small for results to differ.
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_normal_(parameter, 2.0 if 'head' in name else 1.0)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def detector(root: Path, tmp_path_factory) -> Path:
    names = [name.upper() for name in CLASSES]  # unlike the config's
    path = tmp_path_factory.mktemp('detector') / 'detector.pth'
    return save_checkpoint(
        root / DETECTOR, path, dict(dataset_meta=dict(classes=names, palette='random'))
    )


@pytest.fixture(scope='module')
def segmentor(root: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('segmentor') / 'segmentor.pth'
    return save_checkpoint(root / SEGMENTOR, path, {})


@pytest.fixture(scope='module')
def classifier(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('classifier') / 'classifier.pth'
    torch.manual_seed(0)
    model = mmmeta.create_model('poolformer_s12', num_classes=6)
    torch.nn.init.normal_(model.head.fc.weight)
    torch.save(model.state_dict(), path)
    return path


def predict(*arguments: object) -> int:
    return main(['predict', *map(str, arguments)])


def error_of(capsys, *arguments: object) -> str:
    """Return the single line that a failing call prints."""
    assert predict(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('mmmeta predict: ') and err.count('\n') == 1, err
    return err


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


# -- results ----------------------------------------------------------------------


def test_detections_are_those_of_mmdetection(
    root, images, detector, tmp_path, capsys, monkeypatch
):
    from mmdet.apis import inference_detector, init_detector
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    # Weights that the config would train from: nothing may be downloaded.
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'home'))
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{root / DETECTOR}'\n"
        "init_cfg = dict(_delete_=True, type='Pretrained', "
        "checkpoint='mmmeta://poolformer_s12.sail_in1k')\n"
        'model = dict(backbone=dict(init_cfg=init_cfg))\n'
    )
    arguments = [config, detector, images, '--out-dir', tmp_path / 'out']
    arguments += ['--score-thr', 0, '--cfg-options', ALL_SCORES, FEW]
    assert predict(*arguments) == 0
    assert not (tmp_path / 'home').exists()
    out, err = capsys.readouterr()
    assert str(tmp_path / 'out' / 'detections.json') in out and err == ''

    coco = COCO(str(tmp_path / 'out' / 'images.json'))
    found = coco.loadRes(str(tmp_path / 'out' / 'detections.json'))
    assert [c['name'] for c in coco.dataset['categories']] == [
        name.upper() for name in CLASSES
    ]
    assert [i['file_name'] for i in coco.dataset['images']] == [
        'a/x.png',
        'b/x.png',
        'b/y.png',
    ]
    cfg = Config.fromfile(root / DETECTOR)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=6)
    model = init_detector(cfg, str(detector), device='cpu')
    for image in coco.dataset['images']:
        path = images / image['file_name']
        wanted = inference_detector(model, str(path)).pred_instances
        results = found.imgToAnns[image['id']]
        assert len(results) == len(wanted) == 6
        labels = [coco.cats[r['category_id']]['name'] for r in results]
        assert labels == [CLASSES[label].upper() for label in wanted.labels]
        boxes = torch.tensor([r['bbox'] for r in results])
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(boxes, wanted.bboxes, atol=1e-3, rtol=0)
        scores = torch.tensor([r['score'] for r in results])
        torch.testing.assert_close(scores, wanted.scores)
        masks = np.stack([rle.decode(r['segmentation']) for r in results])
        assert (masks == wanted.masks.numpy()).all() and masks.any()

        picture = Image.open(
            (tmp_path / 'out/vis' / image['file_name'][:-4]).with_suffix('.jpg')
        )
        assert picture.size == (image['width'], image['height']) == (128, 96)
        difference = np.abs(
            np.asarray(picture, int) - np.asarray(Image.open(path), int)
        )
        assert difference.max() > 50, 'nothing was drawn'


def test_ids_of_an_annotation_file(root, images, detector, tmp_path, capsys):
    ann_file = tmp_path / 'ann.json'
    categories = [dict(id=10 - i, name=name.upper()) for i, name in enumerate(CLASSES)]
    content = dict(images=[dict(id=77, file_name='y.png')], categories=categories)
    ann_file.write_text(json.dumps(content))
    arguments = [root / DETECTOR, detector, '--out-dir', tmp_path / 'out', '--no-vis']
    arguments += ['--ann-file', ann_file, '--cfg-options', ALL_SCORES, FEW]

    assert predict(*arguments[:2], images / 'b/y.png', *arguments[2:]) == 0
    results = json.loads((tmp_path / 'out/detections.json').read_text())
    assert {r['image_id'] for r in results} == {77}
    assert {r['category_id'] for r in results} <= set(range(5, 11))
    assert not (tmp_path / 'out/vis').exists()
    capsys.readouterr()
    message = error_of(capsys, *arguments[:2], images, *arguments[2:])
    assert "has no 'a/x.png' (2 such)" in message


def test_maps_are_those_of_mmsegmentation(root, images, segmentor, tmp_path, capsys):
    from mmseg.apis import MMSegInferencer

    inputs = tmp_path / 'inputs'
    inputs.mkdir()
    (inputs / 'a.png').write_bytes((images / 'a/x.png').read_bytes())
    (inputs / 'b.png').write_bytes((images / 'b/y.png').read_bytes())
    Image.open(images / 'a/x.png').save(inputs / 'cut.jpg', quality=95)
    data = (inputs / 'cut.jpg').read_bytes()
    (inputs / 'cut.jpg').write_bytes(data[: len(data) // 2])
    (inputs / 'no.png').write_text('not a picture')

    arguments = ['--out-dir', tmp_path / 'out', '--batch-size', 3]
    assert predict(root / SEGMENTOR, segmentor, inputs, *arguments) == 1
    out, err = capsys.readouterr()
    assert 'maps: 2 label maps' in out and 'vis: 2 pictures' in out
    lines = err.splitlines()
    assert lines[0].startswith(f'{inputs / "cut.jpg"}: ') and 'truncated' in lines[0]
    assert lines[1].startswith(f'{inputs / "no.png"}: ')
    assert lines[2] == '2 of 4 images failed' and len(lines) == 3

    inferencer = MMSegInferencer(str(root / SEGMENTOR), str(segmentor), device='cpu')
    files = sorted((tmp_path / 'out/maps').iterdir())
    assert [file.name for file in files] == ['a.png', 'b.png']
    for file in files:
        wanted = inferencer(str(inputs / file.name))['predictions']
        picture = Image.open(file)
        assert picture.mode == 'P' and picture.size == (128, 96)
        assert (np.asarray(picture) == wanted).all()
        assert len(np.unique(wanted)) > 1
        assert picture.getpalette()[:6] == [230, 25, 75, 60, 180, 75]
        assert Image.open(tmp_path / 'out/vis' / f'{file.stem}.jpg').size == (128, 96)
    rows = read_csv(tmp_path / 'out/classes.csv')
    assert [row['class'] for row in rows] == [*CLASSES, 'background']


def test_scores_are_the_softmax_of_create_model(
    root, images, classifier, tmp_path, capsys
):
    options = ['--cfg-options', 'model.head.num_classes=6']
    files = [images / 'b/y.png', images / 'a/*.png', images / 'b/y.png']
    arguments = [*files, '--out-dir', tmp_path / 'out', *options]
    assert predict(root / CLASSIFIER, classifier, *arguments) == 0
    rows = read_csv(tmp_path / 'out/top5.csv')
    assert [row['file'] for row in rows[::5]] == ['b/y.png', 'a/x.png']
    model = mmmeta.create_model('poolformer_s12', checkpoint=classifier, num_classes=6)
    for start, file in ((0, 'b/y.png'), (5, 'a/x.png')):
        # 128x96: the shorter side resized to 224 / 0.9, then the center 224x224.
        image = Image.open(images / file).resize((330, 248), Image.Resampling.BICUBIC)
        image = image.crop((53, 12, 277, 236))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        mean, std = torch.tensor([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)])
        normed = (pixels - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            wanted = model.eval()(normed).softmax(1)[0].topk(5)
        top = rows[start : start + 5]
        assert [int(row['index']) for row in top] == wanted.indices.tolist()
        assert [row['class'] for row in top] == [row['index'] for row in top]
        assert [int(row['rank']) for row in top] == [1, 2, 3, 4, 5]
        scores = torch.tensor([float(row['score']) for row in top])
        torch.testing.assert_close(scores, wanted.values, atol=1e-4, rtol=1e-3)
        assert wanted.values[0] > 2 * wanted.values[1], 'all alike: a weak test'
    with Image.open(tmp_path / 'out/vis/a/x.jpg') as picture:
        assert picture.size == (341, 256)


# -- inputs -----------------------------------------------------------------------


def test_inputs_and_what_is_made_of_them(tmp_path):
    from mmmeta.commands.predict.inputs import list_images, output_stems, relative_names

    for name in ('in/x.jpg', 'in/x.PNG', 'in/deep/y.jpg', 'in/.z.jpg', 'in/n.txt'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'in/out/vis').mkdir(parents=True)
    (tmp_path / 'in/out/vis/x.jpg').touch()
    out = tmp_path / 'in/out'

    paths = list_images([str(tmp_path / 'in'), str(tmp_path / 'in/x.*')], out)
    names = relative_names(paths)
    assert names == ['deep/y.jpg', 'x.PNG', 'x.jpg']
    assert output_stems(names) == names
    assert output_stems(names[:2]) == ['deep/y', 'x']
    paths = list_images([str(tmp_path / '**/y.*'), str(tmp_path / 'in/n.txt')], out)
    assert relative_names(paths) == ['deep/y.jpg', 'n.txt']


# -- errors -----------------------------------------------------------------------


def test_inputs_that_are_not_there(root, images, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for text, reason in (
        (tmp_path / 'none.jpg', 'is missing'),
        (images / '*.gif', 'is missing'),
        (tmp_path / 'empty', 'is a folder without images'),
    ):
        message = error_of(capsys, root / DETECTOR, 'x.pth', images, text)
        assert f'{text} {reason}' in message


def test_out_dir_that_cannot_be_made(root, images, tmp_path, capsys):
    (tmp_path / 'file').touch()
    out = ['--out-dir', tmp_path / 'file' / 'out']
    message = error_of(capsys, root / DETECTOR, 'x.pth', images, *out)
    assert f'--out-dir {tmp_path / "file" / "out"}: Not a directory' in message


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (None, 'no config file'),
        ('model = ', 'SyntaxError'),
        ("default_scope = 'mmdet'", 'has no model'),
        ("model = dict(type='X')", 'default_scope None; expected one of mmdet'),
        ("model = dict(type='X'); default_scope = 'mmseg'", 'no test_dataloader'),
    ],
)
def test_configs_that_do_not_do(text, reason, images, tmp_path, capsys):
    config = tmp_path / 'config.py'
    if text:
        config.write_text(text)
    out = ['--out-dir', tmp_path / 'out']
    message = error_of(capsys, config, 'x.pth', images, *out)
    assert str(config) in message and reason in message


def test_config_of_a_library_that_does_not_exist(images, tmp_path, capsys):
    out = ['--out-dir', tmp_path / 'out']
    message = error_of(capsys, 'mmdet::no/such_config', 'x.pth', images, *out)
    assert 'config mmdet::no/such_config cannot be read' in message


def test_model_of_another_task(root, classifier, images, tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text(
        "default_scope = 'mmseg'\n"
        "model = dict(type='mmmeta.PoolFormer', arch='s12')\n"
        "pipeline = [dict(type='LoadImageFromFile')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    out = ['--out-dir', tmp_path / 'out']
    message = error_of(capsys, config, classifier, images, *out)
    assert 'PoolFormer, is not for segmentation' in message


def test_checkpoints_that_do_not_fit(
    root, detector, classifier, images, tmp_path, capsys
):
    out = ['--out-dir', tmp_path / 'out']
    message = error_of(capsys, root / DETECTOR, tmp_path / 'no.pth', images, *out)
    assert f'{tmp_path / "no.pth"} does not exist' in message
    message = error_of(capsys, root / DETECTOR, classifier, images, *out)
    assert f'{classifier} does not fit config' in message and 'missing' in message
    option = ['--cfg-options', 'model.roi_head.bbox_head.num_classes=7']
    message = error_of(capsys, root / DETECTOR, detector, images, *out, *option)
    assert 'roi_head.bbox_head.fc_cls.weight has shape (7, 256), expected (8, 256)' in (
        message
    )
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('device', ['fpga', 'cuda:99'])
def test_devices_that_are_not_there(device, root, detector, images, tmp_path, capsys):
    arguments = ['--out-dir', tmp_path / 'out', '--device', device]
    message = error_of(capsys, root / DETECTOR, detector, images, *arguments)
    assert f"device '{device}' cannot be used" in message


def test_annotations_are_for_detectors(root, classifier, images, tmp_path, capsys):
    arguments = ['--out-dir', tmp_path / 'out', '--ann-file', 'x.json']
    arguments += ['--cfg-options', 'model.head.num_classes=6']
    message = error_of(capsys, root / CLASSIFIER, classifier, images, *arguments)
    assert '--ann-file needs a detector' in message


def test_a_batch_of_nothing_is_an_error_of_usage(root, capsys):
    with pytest.raises(SystemExit) as exit_:
        predict(root / DETECTOR, 'x.pth', 'x.jpg', '--batch-size', 0)
    assert exit_.value.code == 2 and 'at least 1' in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_prints_its_results_alone(
    root, detector, classifier, images, tmp_path
):
    """No output of the libraries from importing them and building models."""
    code = (
        'import json, sys\n'
        'from mmmeta.cli import main\n'
        'detector, classifier = json.loads(sys.argv[1])\n'
        "status = main(['predict', *detector])\n"
        "sys.exit(main(['predict', *classifier]) or status)\n"
    )
    options = [str(images / 'a'), '--no-vis']
    number = ['--cfg-options', 'model.head.num_classes=6']
    order = [
        [str(root / DETECTOR), str(detector), *options],
        [str(root / CLASSIFIER), str(classifier), *options, *number],
    ]
    done = subprocess.run(
        [sys.executable, '-c', code, json.dumps(order)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, '')
    detections, *lines = done.stdout.splitlines()
    assert re.fullmatch(r'predictions/detections.json: \d+ detections', detections)
    assert lines == [
        'predictions/images.json: the meaning of their ids',
        'predictions/top5.csv: the most likely classes of each image',
    ]
