"""Published detectors and segmentors, by files that stand for what is published.

None can be downloaded here; see `trained_files`.
"""

import copy
import re
import resource
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
import yaml
from configs_of import build, load
from mmengine.registry import MODELS, init_default_scope
from weights.internet import Internet, serve
from weights.trained_files import (
    SIZES,
    poolformer,
    shapes_of,
    uniformer,
    values_of,
    written_by_mmcv,
)

import mmmeta
from mmmeta.weights import download
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.loading import load_checkpoint
from mmmeta.weights.locate import locate
from mmmeta.weights.names import find, find_classifier, list_models
from mmmeta.weights.scheme import load_from_mmmeta
from mmmeta.weights.source import Source
from mmmeta.weights.state import parse, to_layout
from mmmeta.weights.trained import TRAINED, Trained


def address(source: Source) -> str:
    if source.drive_id:
        return f'drive.google.com/{source.drive_id}'
    return source.url.removeprefix('https://')


@pytest.fixture(scope='module')
def internet():
    with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, internet):
    monkeypatch.setenv('MMMETA_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(download, 'WAIT', 0.0)
    internet.files.clear()
    internet.quota = False
    return tmp_path / 'cache'


def publish(internet: Internet, row: Trained, content: bytes) -> None:
    for source in row.sources:
        internet.files[address(source)] = content


def any_digest(row: Trained, monkeypatch) -> None:
    """Let a row's file have other content than the published one."""
    for source in row.sources:
        monkeypatch.setitem(source.__dict__, 'sha256', None)


# -- tests ------------------------------------------------------------------------


def test_the_table():
    assert len(TRAINED) == 35
    by_file: dict[tuple, list[str]] = {}
    for row in TRAINED.values():
        by_file.setdefault(row.sources, []).append(row.name)
    assert len(by_file) == 27
    publishers = [TRAINED[names[0]].publisher for names in by_file.values()]
    assert publishers.count('sail-sg/poolformer') == 11
    assert publishers.count('Sense-X/UniFormer') == 11
    assert publishers.count('MMSegmentation') == 5
    ids = [s.drive_id for sources in by_file for s in sources if s.drive_id]
    assert len(set(ids)) == 22 and all(re.fullmatch(r'1[\w-]{32}', i) for i in ids)


def test_figures_are_the_metafiles(root):
    seen = 0
    for task in ('detection', 'segmentation'):
        path = root / 'configs' / task / 'metafile.yml'
        for model in yaml.safe_load(path.read_text())['Models']:
            row = TRAINED.get(model['Name'])
            if row is None:
                continue
            metrics = {k: v for r in model['Results'] for k, v in r['Metrics'].items()}
            assert metrics == dict(row.results), row.name
            assert model['Weights'] == row.sources[0].url, row.name
            assert model['Config'] == f'configs/{row.config}'
            seen += 1
    assert seen == 30


@pytest.mark.parametrize(
    'name', ['poolformer_s12', 'poolformer_s24', 'poolformer_m36', 'uniformer_small']
)
def test_keys_of_backbones_are_the_references(golden, name):
    """But for a classifier's norm and head, and the dense norms."""
    written = (poolformer if 'pool' in name else uniformer)(*SIZES[name])
    written = {k: list(v) for k, v in written.items() if not re.match(r'norm\d', k)}
    keys = golden(name).keys
    assert written == {k: v for k, v in keys.items() if not re.match('norm|head', k)}


@pytest.mark.parametrize('name', TRAINED)
def test_a_published_file_loads_strictly(internet, monkeypatch, name):
    row = find(name)
    state = values_of(shapes_of(row))
    publish(internet, row, written_by_mmcv(row, state))
    any_digest(row, monkeypatch)
    folder, file = row.config.split('/')
    model = build(folder, file.removesuffix('.py')).to_empty(device='cpu')
    report = load_checkpoint(model, f'mmmeta://{name}')
    assert report.kept == report.left == ()
    loaded = model.state_dict()
    assert report.loaded == len(loaded) == len(state)
    for key, value in state.items():
        if not key.startswith('backbone.'):
            assert loaded[key].shape == value.shape
            assert (loaded[key] == value).all(), key
    own = {k: v for k, v in loaded.items() if k.startswith('backbone.')}
    layout = row.layout.replace('mmpretrain', 'sail-sg/poolformer')
    official = to_layout(parse(own), layout)
    assert len(official) == len(own)
    for key, value in official.items():
        assert (value == state[f'backbone.{key}']).all(), key


def theirs(row: Trained):
    """Return the model around MMPretrain's own PoolFormer, with drawn weights."""
    import mmpretrain.models  # noqa: F401

    folder, file = row.config.split('/')
    cfg = copy.deepcopy(load(folder, file.removesuffix('.py')))
    outputs = [2, 4, 6] if 'retinanet' in row.name else [0, 2, 4, 6]
    cfg.model.backbone = dict(
        type='mmpretrain.PoolFormer', arch='s12', out_indices=outputs, frozen_stages=-1
    )
    if 'retinanet' in row.name:  # it returns three maps where ours returns four
        cfg.model.neck.update(start_level=0, in_channels=[128, 320, 512])
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.backbone.eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if 'layer_scale' in key:
                value.fill_(0.3)
            elif value.dim() == 1 and 'norm' in key:
                value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['retinanet_poolformer_s12', 'semantic_fpn_poolformer_s12']
)
def test_a_name_gives_the_outputs_of_its_file(internet, monkeypatch, name):
    row = find(name)
    model = theirs(row)
    publish(internet, row, written_by_mmcv(row, OrderedDict(model.state_dict())))
    predictor = mmmeta.load(name, device='cpu')
    assert predictor.config.default_scope == ('mmdet' if 'retina' in name else 'mmseg')
    assert predictor.classes[:2] == ('class 0', 'class 1')
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        ours, wanted = predictor.model(images), model(images)
    pairs = zip(_tensors(ours), _tensors(wanted), strict=True)
    for one, other in pairs:
        assert (one - other).abs().max() < 1e-4 * other.std()
    image = np.random.RandomState(0).randint(0, 255, (96, 128, 3), np.uint8)
    one, (other,) = predictor(image), predictor([image])
    field = 'scores' if 'retina' in name else 'data'
    pairs = (getattr(getattr(s, predictor.library.field), field) for s in (one, other))
    assert torch.equal(*pairs)


def _tensors(output):
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)]


def test_classes_of_a_file_without_meta(internet):
    """MMSegmentation would take those of Cityscapes."""
    row = find('upernet_uniformer_small_global_test_h32')
    publish(internet, row, written_by_mmcv(row, values_of(shapes_of(row))))
    content = load_from_mmmeta(f'mmmeta://{row.name}')
    names = content['meta']['dataset_meta']
    assert names['classes'][:3] == ('wall', 'building', 'sky')
    assert len(names['classes']) == len(names['palette']) == 150


def test_of_a_files_meta_classes_are_kept(internet):
    row = find('mask_rcnn_uniformer_small')
    publish(internet, row, written_by_mmcv(row, values_of(shapes_of(row))))
    content = load_from_mmmeta(f'mmmeta://{row.name}')
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta'].keys() == {'dataset_meta'}
    assert content['meta']['dataset_meta']['classes'][79] == 'class 79'
    assert 'backbone.stages.3.blocks.2.mlp.fc2.weight' in content['state_dict']
    assert 'roi_head.mask_head.conv_logits.bias' in content['state_dict']


@pytest.mark.parametrize(
    ('name', 'other', 'words'),
    [
        # Another size, another head, another data set.
        ('retinanet_poolformer_s12', 'retinanet_poolformer_s24', 'blocks.2'),
        ('retinanet_poolformer_s12', 'mask_rcnn_poolformer_s12', 'bbox_head|rpn_head'),
        ('semantic_fpn_poolformer_s12', 'retinanet_poolformer_s12', 'decode_head'),
        ('upernet_uniformer_base_global', 'semantic_fpn_uniformer_base', 'decode_head'),
    ],
)
def test_another_models_file_is_refused(internet, name, other, words):
    row = find(name)
    content = written_by_mmcv(find(other), values_of(shapes_of(find(other))))
    publish(internet, row, content)
    folder, file = row.config.split('/')
    model = build(folder, file.removesuffix('.py')).to_empty(device='cpu')
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(model, f'mmmeta://{name}')
    assert '\n' not in str(caught.value)


# -- downloads --------------------------------------------------------------------


def test_drive_asks_for_a_confirmation(internet):
    row = find('retinanet_poolformer_s12')
    content = bytes(range(256)) * 4000
    publish(internet, row, content)
    internet.asked.clear()
    path = locate('mmmeta://retinanet_poolformer_s12')
    assert path.name == 'retinanet_poolformer_s12.pth'
    assert path.read_bytes() == content
    assert internet.asked == [
        'drive.google.com/uc',
        *['drive.usercontent.google.com/download'] * 2,
    ]
    assert locate('mmmeta://retinanet_poolformer_s12') == path
    assert len(internet.asked) == 3


def test_a_download_from_drive_that_broke_off_goes_on(internet, cache):
    row = find('retinanet_poolformer_s24')
    content = bytes(range(251)) * 8000
    publish(internet, row, content)
    internet.cut = 1_000_000
    assert locate(f'mmmeta://{row.name}').read_bytes() == content
    assert not list(cache.glob('*.part*'))


def test_drives_quota(internet, cache):
    internet.quota = True
    with pytest.raises(CheckpointError) as caught:
        locate('mmmeta://retinanet_poolformer_s36')
    url = 'https://drive.google.com/file/d/1EgJDCg7LXXnHdGdJaHyEnoBPm-fNG2bt/view'
    message = str(caught.value)
    assert 'Google Drive gives a page instead of the file' in message
    assert f'Get {url} in a browser' in message
    assert f'save it as {cache / "retinanet_poolformer_s36.pth"}' in message
    assert '\n' not in message
    assert not list(cache.glob('*.pth*part*'))
    (cache / 'retinanet_poolformer_s36.pth').write_bytes(b'by hand')
    assert locate('mmmeta://retinanet_poolformer_s36').read_bytes() == b'by hand'


def test_an_answer_of_drive_that_gdown_does_not_expect(internet):
    """It has no Content-Type."""
    with pytest.raises(CheckpointError, match='gdown cannot read the answer') as caught:
        locate('mmmeta://retinanet_poolformer_s36')
    assert '\n' not in str(caught.value)


def test_a_full_disk_in_downloading_from_drive(internet, cache):
    """A file size limit simulates it; the download goes on where there is room."""
    row = find('mask_rcnn_poolformer_s12')
    content = bytes(range(256)) * 4000
    publish(internet, row, content)
    code = 'import sys; from mmmeta.cli import main; sys.exit(main(sys.argv[1:]))'
    run = subprocess.run(
        [sys.executable, '-c', code, 'download', row.name],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (1, '')
    (line,) = run.stderr.splitlines()
    assert f'a download to {cache} cannot be written: ' in line
    assert line.endswith('Free some space there, or set MMMETA_HOME to another folder')
    assert not (cache / 'mask_rcnn_poolformer_s12.pth').exists()
    assert locate(f'mmmeta://{row.name}').read_bytes() == content
    assert not list(cache.glob('*.part'))


def test_copies_are_used_where_drive_fails(internet):
    row = find('mask_rcnn_uniformer_small_ms_3x')
    internet.quota = True
    internet.files[address(row.sources[0])] = b'a copy'
    assert locate(f'mmmeta://{row.name}').read_bytes() == b'a copy'


def test_test_modes_share_a_file(internet):
    row = find('upernet_uniformer_small_global')
    publish(internet, row, b'weights')
    names = [
        f'upernet_uniformer_small_global{e}' for e in ('', '_test_w32', '_test_h32')
    ]
    assert len({locate(f'mmmeta://{name}') for name in names}) == 1


def test_mmsegmentations_files_have_known_digits(internet):
    row = find('semantic_fpn_poolformer_s12_mmseg')
    publish(internet, row, b'something else')
    with pytest.raises(CheckpointError, match='expected b5aa2f49'):
        locate(f'mmmeta://{row.name}')


def test_an_unknown_name():
    with pytest.raises(CheckpointError, match='nearest: mask_rcnn_uniformer_small, '):
        find('mask_rcnn_uniformer_smal')
    with pytest.raises(CheckpointError, match='is for detection; expected a class'):
        find_classifier('retinanet_poolformer_s12')


def test_lists_by_task():
    names = list_models(task='detection')
    assert len(names) == 12 and 'retinanet_poolformer_s12' in names
    assert len(list_models(task='segmentation')) == 23
    assert 'caformer_s18.sail_in1k' in list_models(task='classification')
    assert len(list_models(task='classification')) == 65
