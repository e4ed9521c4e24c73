"""`mmmeta validate` compared with an accuracy computed in a separate loop."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

import mmmeta
from mmmeta.cli import main
from mmmeta.datasets import CLASSES, make_shapes
from mmmeta.weights.names import find

ARCH = 'poolformer_s12'  # crop 0.9, bicubic


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Six class folders with 12 images."""
    root = tmp_path_factory.mktemp('validate') / 'shapes'
    make_shapes(root, num_train=1, num_val=12, size=96, progress=False)
    return root / 'classes' / 'val'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """Six classes, assigned at random but clearly for each image."""
    path = tmp_path_factory.mktemp('checkpoint') / 'six.pth'
    torch.manual_seed(3)
    model = mmmeta.create_model(ARCH, num_classes=6)
    torch.nn.init.normal_(model.head.fc.weight)
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope='module')
def ranked(data: Path, checkpoint: Path) -> dict[Path, list[int]]:
    """Return each image's classes by probability, using only PIL and NumPy."""
    row = find(ARCH)
    assert (row.input_size, row.crop_pct, row.interpolation) == (224, 0.9, 'bicubic')
    model = mmmeta.create_model(ARCH, checkpoint=checkpoint, num_classes=6).eval()
    result = {}
    for path in sorted(data.glob('*/*.jpg')):
        side = int(224 / 0.9)
        image = Image.open(path).resize((side, side), Image.Resampling.BICUBIC)
        edge = (side - 224) // 2
        pixels = np.asarray(image, np.float32)[edge : edge + 224, edge : edge + 224]
        normed = (pixels / 255 - row.mean) / row.std
        inputs = torch.tensor(normed, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            result[path] = model(inputs)[0].argsort(descending=True).tolist()
    assert len(result) == 12
    return result


def accuracy(ranked: dict[Path, list[int]], classes: list[str], top: int) -> float:
    right = [classes.index(p.parent.name) in order[:top] for p, order in ranked.items()]
    return 100 * sum(right) / len(right)


def validate(*arguments: object) -> int:
    return main(['validate', *map(str, arguments), '--workers', '0'])


def error_of(capsys, *arguments: object) -> str:
    assert validate(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('mmmeta validate: ') and err.count('\n') == 1
    return err


def test_accuracy_is_that_of_a_loop_by_hand(data, checkpoint, ranked, capsys):
    classes = sorted(CLASSES)
    arguments = [ARCH, data, '--checkpoint', checkpoint, '--batch-size', 5]
    assert validate(*arguments, '--json') == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    top1, top5 = accuracy(ranked, classes, 1), accuracy(ranked, classes, 5)
    assert (facts['top1'], facts['top5']) == pytest.approx((top1, top5))
    assert 0 < top1 < top5, 'all alike: a weak test'
    assert (facts['images'], facts['failed'], err) == (12, 0, '')
    assert facts['images_per_second'] > 0
    assert validate(*arguments) == 0
    out = capsys.readouterr().out
    assert f'top-1       {top1:.2f} %\n' in out and 'crop 0.9, bicubic' in out


def test_classes_in_another_order(data, checkpoint, ranked, tmp_path, capsys):
    names = sorted(CLASSES)[::-1]
    (tmp_path / 'classes.txt').write_text('\n'.join(names) + '\n')
    arguments = [ARCH, data, '--checkpoint', checkpoint, '--json']
    assert validate(*arguments, '--class-map', tmp_path / 'classes.txt') == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['top1'] == pytest.approx(accuracy(ranked, names, 1))
    assert accuracy(ranked, names, 1) != accuracy(ranked, names[::-1], 1)
    (tmp_path / 'classes.txt').write_text('circle\ncircle\n')
    message = error_of(capsys, *arguments[:-1], '--class-map', tmp_path / 'classes.txt')
    assert 'has 2 lines, 1 of them different' in message


def test_images_that_cannot_be_read(data, checkpoint, ranked, tmp_path, capsys):
    root = shutil.copytree(data, tmp_path / 'val')
    bad = sorted(root.glob('*/*.jpg'))[4]
    bad.write_bytes(bad.read_bytes()[:2000])
    assert validate(ARCH, root, '--checkpoint', checkpoint, '--json') == 1
    out, err = capsys.readouterr()
    facts = json.loads(out)
    good = {p: o for p, o in ranked.items() if p.name != bad.name}
    assert (facts['images'], facts['failed']) == (11, 1)
    assert facts['top1'] == pytest.approx(accuracy(good, sorted(CLASSES), 1))
    assert err.splitlines() == [
        f'{bad}: cannot be read: image file is truncated (78 bytes not processed)',
        '1 of 12 images failed and are not counted',
    ]


def test_a_limit_takes_images_of_all_classes(data):
    from mmmeta.commands.validate.accuracy import ClassFolders

    class_map = {name: i for i, name in enumerate(sorted(CLASSES))}
    all_ = ClassFolders(data, class_map)
    some = ClassFolders(data, class_map, limit=4)
    assert some.samples == all_.samples[::3] and len(some) == 4
    assert len(ClassFolders(data, class_map, limit=99)) == 12


def test_a_part_of_imagenet_is_known_by_its_folders(tmp_path):
    from mmmeta.commands.validate.accuracy import read_class_map

    names = ImageNetInfo('imagenet-1k').label_names()
    for index in (0, 217, 999):
        (tmp_path / names[index]).mkdir()
    class_map = read_class_map(tmp_path, 1000)
    assert [class_map[names[i]] for i in (0, 217, 999)] == [0, 217, 999]


def test_wrong_arguments(data, checkpoint, tmp_path, capsys):
    message = error_of(capsys, 'poolformer_s13', data)
    assert "'poolformer_s13'; nearest: poolformer_s" in message
    message = error_of(capsys, ARCH, tmp_path / 'no', '--checkpoint', checkpoint)
    assert f'no folder {tmp_path / "no"}' in message
    message = error_of(capsys, ARCH, data.parent, '--checkpoint', checkpoint)
    assert 'has 2 class folders, but the model 6 classes' in message
    message = error_of(capsys, ARCH, data, '--checkpoint', tmp_path / 'no.pth')
    assert f'{tmp_path / "no.pth"} does not exist' in message
    message = error_of(capsys, 'caformer_s18', data, '--checkpoint', checkpoint)
    assert 'does not fit' in message
    for name in CLASSES:
        (tmp_path / 'empty' / name).mkdir(parents=True)
    message = error_of(capsys, ARCH, tmp_path / 'empty', '--checkpoint', checkpoint)
    assert 'no images in the class folders' in message


def test_links_and_odd_images_change_no_accuracy(
    data, checkpoint, ranked, tmp_path, capsys, monkeypatch
):
    """A loop of links, a class that is a link, and an image of too many pixels."""
    monkeypatch.setenv('MMMETA_MAX_PIXELS', '10000')
    root = tmp_path / 'val'
    root.mkdir()
    first, *others = sorted(CLASSES)
    shutil.copytree(data / first, root / first)
    for name in others:
        (root / name).symlink_to(data / name)
    (root / first / 'loop').symlink_to(root)
    (root / first / 'copy').symlink_to(root / first)
    Image.new('RGB', (200, 100)).save(root / first / 'large.png')
    arguments = [ARCH, root, '--checkpoint', checkpoint, '--json']
    assert validate(*arguments) == 1
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts['images'], facts['failed']) == (12, 1)
    assert facts['top1'] == pytest.approx(accuracy(ranked, sorted(CLASSES), 1))
    large = root / first / 'large.png'
    assert err.startswith(f'{large}: cannot be read: 200x100 are 20,000 pixels')


def test_logits_that_are_no_numbers_are_wrong(data, checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint)
    state['head.fc.weight'][:] = 3e38
    torch.save(state, tmp_path / 'nan.pth')
    assert validate(ARCH, data, '--checkpoint', tmp_path / 'nan.pth', '--json') == 1
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts['top1'], facts['top5'], facts['images']) == (0, 0, 12)
    assert err == '12 of 12 images have NaN or infinite logits and count as wrong\n'
