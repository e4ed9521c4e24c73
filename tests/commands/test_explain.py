"""`mmmeta explain`: maps of known answers, and the picture's content."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import mmmeta
from mmmeta.cli import main
from mmmeta.commands.explain.maps import Crop
from mmmeta.commands.explain.subjects import load_subject

SMALL = dict(depths=(1, 1, 1, 1), dims=(16, 16, 16, 16))


@pytest.fixture
def image(tmp_path) -> Path:
    """Noise of 300x200 pixels (width x height)."""
    noise = np.random.RandomState(0).randint(0, 256, (200, 300, 3), np.uint8)
    path = tmp_path / 'noise.png'
    Image.fromarray(noise).save(path)
    return path


def heat_of(tmp_path: Path, *args: str) -> np.ndarray:
    """Return the only map that a call writes."""
    folder = tmp_path / 'maps'
    out = str(tmp_path / 'out.png')
    assert main(['explain', *args, '--out', out, '--out-dir', str(folder)]) == 0
    (path,) = folder.glob('*.npy')
    return np.load(path)


def test_gradcam_is_the_formula(image, tmp_path):
    model = mmmeta.create_model('poolformer_s12').eval()
    file = tmp_path / 'model.pth'
    torch.save(model.state_dict(), file)
    heat = heat_of(
        tmp_path, str(image), '--models', f'poolformer_s12={file}', '--target', '7'
    )

    # The paper's crop: the center 0.9 of the shorter side.
    box = (150 - 90, 100 - 90, 150 + 90, 100 + 90)
    crop = Image.open(image).resize((224, 224), Image.Resampling.BICUBIC, box)
    x = torch.from_numpy(np.asarray(crop) / 255).permute(2, 0, 1)[None].float()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for stage in model.backbone.stages:
        x = stage(x)
    x = x.detach().requires_grad_()
    score = model.head.fc(model.backbone.norm(x).mean((2, 3)))[0, 7]
    (gradient,) = torch.autograd.grad(score, x)
    expected = (gradient.mean((2, 3), keepdim=True) * x).sum(1).relu()[0].detach()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    expected = cv2.resize(expected.numpy(), (224, 224))

    assert heat.shape == (200, 300)
    seen = ~np.isnan(heat)
    assert seen[10:190, 60:240].all()
    assert seen.sum() == 180 * 180
    found = np.asarray(Image.fromarray(heat[10:190, 60:240]).resize((224, 224), 2))
    assert np.abs(found - expected).mean() < 0.01
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize('corner', [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_evidence_is_found_where_it_is(corner, tmp_path):
    """A class whose weights are the effect of a disc on the last map."""
    picture = np.full((224, 224, 3), 90, np.uint8)
    y, x = 56 + 112 * corner[0], 56 + 112 * corner[1]
    cv2.circle(picture, (x, y), 30, (250, 40, 40), -1)
    path = tmp_path / 'disc.png'
    Image.fromarray(picture).save(path)

    model = mmmeta.create_model('identityformer_s12').eval()
    crop = Crop((224, 224), 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        (maps,) = model.backbone(crop(picture).tensor)
        row, column = y // 32, x // 32
        disc, ground = maps[0, :, row, column], maps[0, :, 6 - row, 6 - column]
        model.head.fc.weight.zero_()
        model.head.fc.weight[3] = disc - ground
    file = tmp_path / 'model.pth'
    torch.save(model.state_dict(), file)
    spec = f'identityformer_s12={file}'
    heat = heat_of(tmp_path, str(path), '--models', spec, '--target', '3')

    halves = heat.reshape(2, 112, 2, 112).mean((1, 3))
    assert np.unravel_index(heat.argmax(), heat.shape)[0] // 112 == corner[0]
    assert np.unravel_index(heat.argmax(), heat.shape)[1] // 112 == corner[1]
    assert (
        halves[corner] > 3 * np.delete(halves.ravel(), 2 * corner[0] + corner[1]).max()
    )


def test_a_picture_has_a_row_an_image_and_a_column_a_model(image, tmp_path, capsys):
    tall = tmp_path / 'tall.png'
    Image.fromarray(np.full((300, 200, 3), (10, 200, 30), np.uint8)).save(tall)
    out, folder = tmp_path / 'new' / 'picture.png', tmp_path / 'panels'
    models = ['poolformer_s12', 'timm:resnet18']
    args = [str(image), str(tall), '--models', *models, '--random']
    assert main(['explain', *args, '--out', str(out), '--out-dir', str(folder)]) == 0

    captured = capsys.readouterr()
    assert captured.err == ''
    lines = captured.out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(f'{image}  poolformer_s12  gradcam  ')
    assert lines[-2:] == [f'wrote {out}', f'wrote {folder}']

    picture = np.asarray(Image.open(out).convert('RGB'))
    assert abs(picture.shape[1] - 3 * 2.6 * 150) < 2
    # Rows are as high as their images: 2/3 and 3/2 of the width of a column.
    assert 2.6 * 150 * (2 / 3 + 3 / 2) < picture.shape[0] < 1.3 * 2.6 * 150 * 13 / 6
    third = picture.shape[1] // 3
    columns = [picture[:, i * third : (i + 1) * third] for i in range(3)]
    green = (columns[0] == (10, 200, 30)).all(2)
    assert green.sum() > 0.3 * green.size  # the tall image itself
    assert not (columns[1] == (10, 200, 30)).all(2).any()
    assert np.abs(columns[1].astype(int) - columns[2]).mean() > 5

    panels = sorted(folder.glob('*.png'))
    assert [p.name for p in panels] == [
        '1_noise_poolformer_s12_untrained.png',
        '1_noise_timm_resnet18_untrained.png',
        '2_tall_poolformer_s12_untrained.png',
        '2_tall_timm_resnet18_untrained.png',
    ]
    for panel in panels:
        heat = np.load(panel.with_suffix('.npy'))
        assert heat.dtype == np.float32
        assert heat.shape == np.asarray(Image.open(panel)).shape[:2]
        assert np.nanmin(heat) >= 0
        assert np.nanmax(heat) > 0.9


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('poolformer_s12', (512, 7, 7)),
        ('uniformer_small', (512, 7, 7)),
        ('timm:resnet18', (512, 7, 7)),
        ('timm:convnext_atto', (320, 7, 7)),
        ('timm:deit_tiny_patch16_224', (192, 14, 14)),
        ('timm:deit_tiny_distilled_patch16_224', (192, 14, 14)),
        ('timm:resmlp_12_224', (384, 14, 14)),
        ('timm:swin_tiny_patch4_window7_224', (768, 7, 7)),
    ],
)
def test_layers_and_layouts(name, shape, image):
    from pytorch_grad_cam import GradCAM

    from mmmeta.commands.explain.maps import explain

    shapes = []

    class Spy(GradCAM):
        def get_cam_weights(self, x, layer, targets, activations, grads):
            shapes.extend([activations.shape[1:], grads.shape[1:]])
            assert np.abs(grads).sum() > 0
            return super().get_cam_weights(x, layer, targets, activations, grads)

    subject = load_subject(name, random=True)
    picture = np.asarray(Image.open(image))
    model = subject.scores_for(subject.prepare(picture))
    for parameter in model.parameters():  # ResMLP's head begins with zeros
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    explanation = explain(subject, picture, Spy)
    assert shapes == [shape, shape]
    assert explanation.heat.shape == (200, 300)


def test_tokens_are_laid_out_as_the_image(image):
    """Without its attention a DeiT's token is that of its patch."""
    from mmmeta.commands.explain.maps import _to_maps

    subject = load_subject('timm:deit_tiny_patch16_224', random=True)
    view = subject.prepare(np.asarray(Image.open(image)))
    grid = subject.scores_for(view).patch_embed.proj(view.tensor)
    tokens = torch.cat([torch.zeros(1, 1, 192), grid.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(_to_maps(subject, view, tokens), grid)


def small_config(tmp_path: Path, root: Path, base: str, extra: str) -> str:
    """A config and checkpoint of a fast model, with random weights."""
    path = tmp_path / f'{Path(base).stem}_small.py'
    backbone = f'backbone=dict(arch=dict(_delete_=True, **{SMALL}), init_cfg=None)'
    base = str(root / 'configs' / base)
    path.write_text(f'_base_ = {base!r}\nmodel = dict({backbone}, {extra})\n')
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))
    model.init_weights()
    checkpoint = path.with_suffix('.pth')
    torch.save(model.state_dict(), checkpoint)
    return f'{path}={checkpoint}'


NECK = 'neck=dict(in_channels=[16] * 4)'


@pytest.mark.parametrize(
    ('base', 'extra', 'method'),
    [
        ('detection/retinanet_poolformer_s12_shapes.py', NECK, 'eigencam'),
        ('detection/mask_rcnn_poolformer_s12_shapes.py', NECK, 'hirescam'),
        ('segmentation/semantic_fpn_poolformer_s12_shapes.py', NECK, 'hirescam'),
        ('classification/poolformer_s12.py', 'head=dict(in_channels=16)', 'gradcam'),
    ],
)
def test_configs(base, extra, method, image, tmp_path, root, capsys):
    spec = small_config(tmp_path, root, base, extra)
    capsys.readouterr()
    heat = heat_of(tmp_path, str(image), '--models', spec, '--method', method)
    line = capsys.readouterr().out.splitlines()[0]
    assert f'  {method}  ' in line
    assert heat.shape == (200, 300)
    if 'classification' in base:  # 0.9 of the shorter side
        assert np.isfinite(heat).sum() == 180 * 180
        return
    assert np.isfinite(heat).all()
    # Random weights give no confident box: the label says so and nothing is drawn.
    nothing = 'mask_rcnn' in base
    assert line.endswith('(no evidence)') == nothing
    assert heat.any() != nothing


def test_segmentors_score_is_of_where_the_class_is(image, tmp_path, root):
    base = 'segmentation/semantic_fpn_poolformer_s12_shapes.py'
    spec = small_config(tmp_path, root, base, NECK)
    subject = load_subject(spec)
    view = subject.prepare(np.asarray(Image.open(image)))
    model = subject.scores_for(view)
    logits = model.model(view.tensor)
    scores = model(view.tensor)
    winners = logits.argmax(1)
    probabilities = logits.softmax(1)
    for index in range(logits.shape[1]):
        expected = probabilities[0, index][winners[0] == index].sum()
        assert scores[0, index].item() == pytest.approx(expected.item(), rel=1e-4)
    assert scores.shape == logits.shape[:2]


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['none.jpg', '--models', 'poolformer_s12'], 'image none.jpg cannot be read'),
        (['{image}', '--models', 'poolformer_s11'], 'nearest: poolformer_s12'),
        (['{image}', '--models', 'timm:resnet5'], "no model 'resnet5'; nearest: res"),
        (['{image}', '--models', 'a.py'], 'a.py=CHECKPOINT'),
        (['{image}', '--models', 'timm:resnet18={image}'], 'is a picture'),
        (
            [
                '{image}',
                '--models',
                'poolformer_s12',
                '--random',
                '--layer',
                'x.stages',
            ],
            "no layer 'x.stages'; nearest: ",
        ),
        (
            ['{image}', '--models', 'poolformer_s12', '--random', '--layer', 'head.fc'],
            'the layer returns (1, 1000)',
        ),
        (
            ['{image}', '--models', 'poolformer_s12', '--random', '--target', '1000'],
            '--target must be 0 to 999, got 1000',
        ),
        (
            ['{image}', '--models', 'poolformer_s12', '--random', '--out', 'a.txt'],
            '--out must end in .png',
        ),
    ],
)
def test_errors(args, message, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['explain', *(arg.format(image=image) for arg in args)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count('\n') == 1


@pytest.mark.slow
def test_without_the_library_the_error_names_the_extra(image):
    code = (
        'import sys; sys.modules["pytorch_grad_cam"] = None\n'
        'from mmmeta.cli import main\n'
        f'sys.exit(main(["explain", {str(image)!r}, "--models", "poolformer_s12"]))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'mmmeta-backbones[explain]'" in done.stderr


def test_one_bad_image_and_odd_names_cost_no_map(image, tmp_path, capsys):
    """A name that is a broken formula, a strip, and two models of one name."""
    (tmp_path / 'b').mkdir()
    odd = tmp_path / b'$\\x{$ \xff\n.png'.decode('utf-8', 'surrogateescape')
    odd.write_bytes(image.read_bytes())
    strip = tmp_path / ('n' * 251 + '.png')
    Image.new('RGB', (2, 900)).save(strip)
    (tmp_path / 'bad.png').write_text('no image')
    torch.save(mmmeta.create_model('poolformer_s12').state_dict(), tmp_path / 'm.pth')
    (tmp_path / 'b/m.pth').symlink_to('../m.pth')
    models = [f'poolformer_s12={tmp_path / name}' for name in ('m.pth', 'b/m.pth')]
    images = [str(path) for path in (odd, tmp_path / 'bad.png', strip)]
    out, folder = tmp_path / 'out.png', tmp_path / 'maps'
    options = ['--out', str(out), '--out-dir', str(folder)]
    assert main(['explain', *images, '--models', *models, *options]) == 1
    printed, err = capsys.readouterr()
    assert len(list(folder.glob('*.npy'))) == len(list(folder.glob('*.png'))) == 4
    assert Image.open(out).size[1] < 65_000
    assert printed.splitlines()[0].startswith(f'{tmp_path}/$\\x{{$ \\xff\\n.png  ')
    first, last = err.splitlines()
    assert first.startswith(f'{tmp_path}/bad.png: cannot be read: ')
    assert last == '1 of 3 images failed'


def test_scores_that_are_no_numbers_are_no_map(image, tmp_path, capsys):
    model = mmmeta.create_model('poolformer_s12')
    model.head.fc.weight.data.fill_(3e38)
    torch.save(model.state_dict(), tmp_path / 'm.pth')
    spec = f'poolformer_s12={tmp_path / "m.pth"}'
    out = tmp_path / 'out.png'
    assert main(['explain', str(image), '--models', spec, '--out', str(out)]) == 1
    assert 'returns NaN or infinite scores or maps' in capsys.readouterr().err
    assert not out.exists()
