"""`mmmeta export`, and the files that it writes in place of a config."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import playwright
import pyarrow.parquet
import pytest
import torch
from odd_models import LINEAR, classifier, detector, write
from tiny_models import write_model, write_picture

from mmmeta.cli import main
from mmmeta.errors import UserError
from mmmeta.export import files
from mmmeta.runtime import open_model, read_metadata

# A cluster of this machine, on the loopback alone.
LOCAL_RAY = """
import runpy, sys, ray
ray.init(
    num_cpus=2, include_dashboard=False, _node_ip_address='127.0.0.1',
    _temp_dir=sys.argv.pop(1), object_store_memory=100 << 20, log_to_driver=False,
)
runpy.run_path(sys.argv.pop(1), run_name='__main__')
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> list[str]:
    """A detector of three classes."""
    names = dict(classes=('bücher', 'b"c', 'x'), palette=[(9, 8, 7)] * 3)
    return write_model(tmp_path_factory.mktemp('export'), 'detection', 3, names)


@pytest.fixture(scope='module')
def exported(model, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp('files') / 'model.onnx'
    assert main(['export', *model, '-o', str(file)]) == 0
    return file


def test_the_file_says_what_it_is(exported, model):
    session = onnxruntime.InferenceSession(exported)
    given = session.get_modelmeta().custom_metadata_map
    assert given['task'] == 'detection'
    assert json.loads(given['classes']) == ['bücher', 'b"c', 'x']
    assert json.loads(given['palette']) == [[9, 8, 7]] * 3
    assert given['config'] == 'detection.py'
    assert len(given['checkpoint_sha256']) == 64
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ('image', 'tensor(uint8)')
    assert image.shape[2] == 3
    outputs = {x.name: (x.shape, x.type) for x in session.get_outputs()}
    assert outputs == {
        'boxes': ([8, 4], 'tensor(float)'),
        'scores': ([8], 'tensor(float)'),
        'labels': ([8], 'tensor(int64)'),
    }


def test_predict_writes_what_the_model_writes(exported, model, tmp_path, capsys):
    """At the size of the pipeline, where nothing is resized."""
    images = [str(write_picture(tmp_path / f'{i}.png', (64, 64), i)) for i in range(3)]
    for name, words in (('file', [str(exported)]), ('model', model)):
        assert (
            main(['predict', *words, *images, '--out-dir', str(tmp_path / name)]) == 0
        )
    found, expected = (
        json.loads((tmp_path / name / 'detections.json').read_text())
        for name in ('file', 'model')
    )
    assert len(found) == len(expected) == 24
    for a, b in zip(found, expected, strict=True):
        assert (a['image_id'], a['category_id']) == (b['image_id'], b['category_id'])
        np.testing.assert_allclose(a['bbox'], b['bbox'], atol=0.01)
        assert abs(a['score'] - b['score']) < 1e-5
    ids = [(tmp_path / name / 'images.json').read_bytes() for name in ('file', 'model')]
    assert ids[0] == ids[1]
    assert len(list((tmp_path / 'file/vis').iterdir())) == 3


def test_pytorch_is_not_imported(exported, tmp_path):
    image = write_picture(tmp_path / 'x.png')
    code = (
        'import sys\n'
        "sys.modules['torch'] = sys.modules['mmcv'] = None\n"
        'from mmmeta.cli import main\n'
        f'sys.exit(main({["predict", str(exported), str(image)]!r}))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / 'predictions/images.json').read_text())['images']


def test_the_web_example_reads_the_metadata(exported, root):
    """By JavaScript of its own, since onnxruntime-web does not give them."""
    node = Path(playwright.__file__).parent / 'driver/node'
    source = (root / 'examples/web/detector.js').read_text()
    code = (
        f'const source = {json.dumps(source)};\n'
        "const url = 'data:text/javascript,' + encodeURIComponent(source);\n"
        'const { metadataOf } = await import(url);\n'
        "const bytes = (await import('node:fs')).readFileSync(process.argv[1]);\n"
        'console.log(JSON.stringify(metadataOf(bytes)));\n'
    )
    done = subprocess.run(
        [node, '--input-type=module', '-e', code, exported],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout) == read_metadata(exported)


@pytest.mark.slow
def test_the_ray_example_finds_the_same(exported, root, tmp_path):
    folder = tmp_path / 'in'
    for i in range(5):
        write_picture(folder / f'{i}.png', (60 + i, 64), i)
    (folder / '3.png').write_bytes(b'not an image')
    words = [exported, folder, tmp_path / 'out', '--actors', '1']
    # The names of its sockets have to be short; no token in the user's home.
    environment = dict(RAY_AUTH_MODE='disabled', RAY_USAGE_STATS_ENABLED='0')
    with TemporaryDirectory(prefix='ray') as logs:
        script = [LOCAL_RAY, logs, root / 'examples/ray/predict.py']
        done = subprocess.run(
            [sys.executable, '-c', *script, *words],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1, done.stderr
    assert f'{folder}/3.png: ValueError: cannot identify image' in done.stderr
    found = pyarrow.parquet.read_table(tmp_path / 'out').to_pylist()
    assert [row['path'] for row in found if row['error']] == [f'{folder}/3.png']
    rows = {row['path']: row for row in found if not row['error']}

    out = tmp_path / 'expected'
    words = ['predict', str(exported), str(folder), '--no-vis', '--out-dir', str(out)]
    assert main(words) == 1
    images = json.loads((out / 'images.json').read_text())['images']
    detections = json.loads((out / 'detections.json').read_text())
    assert len(rows) == len(images) == 4
    for image in images:
        row = rows[f'{folder}/{image["file_name"]}']
        expected = [x for x in detections if x['image_id'] == image['id']]
        assert len(expected) == 8
        assert row['labels'] == [x['category_id'] - 1 for x in expected]
        assert row['scores'] == [x['score'] for x in expected]
        boxes = [[a, b, c - a, d - b] for a, b, c, d in row['boxes']]
        assert boxes == [x['bbox'] for x in expected]


def test_threads_as_told(exported, monkeypatch, tmp_path):
    file = tmp_path / 'model.xml'
    files.convert_to_openvino(exported, file, read_metadata(exported))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    options = open_model(exported).session.session.get_session_options()
    assert options.intra_op_num_threads == 1
    compiled = open_model(file).session.compiled
    assert compiled.get_property('INFERENCE_NUM_THREADS') == 1


def test_half_as_large(tmp_path, capsys):
    config, weights, _ = write(classifier(LINEAR), tmp_path)
    sizes = []
    for name, options in (('full', []), ('half', ['--half'])):
        file = tmp_path / f'{name}.onnx'
        words = ['export', str(config), str(weights), '-o', str(file), *options]
        assert main(words) == 0
        assert '100.00 % of 3 images agree' in capsys.readouterr().out
        sizes.append(sum(x.numel() for x in weights_of(file)))
    assert sizes[1] < 0.4 * sizes[0]


def weights_of(file: Path) -> list[torch.Tensor]:
    """Return the single-precision weights in a file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    return [
        torch.from_numpy(np.array(numpy_helper.to_array(x)))
        for x in graph.initializer
        if x.data_type == onnx.TensorProto.FLOAT
    ]


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('detr/detr_r50_8xb2-150e_coco.py', 'DETR cannot be exported; expected a Sing'),
        ('gfl/gfl_r50_fpn_1x_coco.py', 'bbox_head GFLHead cannot be exported: it sel'),
    ],
)
def test_heads_that_cannot_be_exported(path, message, tmp_path, capsys):
    levels = 1 if 'detr' in path else 4
    config, weights, _ = write(detector(path, levels), tmp_path)
    file = tmp_path / 'model.onnx'
    assert main(['export', str(config), str(weights), '-o', str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not file.exists()


def test_a_file_that_differs_is_not_written(model, tmp_path, monkeypatch, capsys):
    def spoiled(program, path, metadata, half):
        files.write_onnx(program, path, metadata)
        import onnx

        content = onnx.load(path)
        for weight in content.graph.initializer:
            if weight.data_type == 1 and len(weight.dims) == 4:
                weight.raw_data = bytes(len(weight.raw_data))
        onnx.save(content, path)

    monkeypatch.setitem(files.WRITERS, 'onnx', spoiled)
    file = tmp_path / 'model.onnx'
    file.write_bytes(b'an older one')
    assert main(['export', *model, '-o', str(file)]) == 1
    assert 'finds other things than the model' in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'an older one']


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch, capsys):
    def full(program, path, metadata, half):
        path.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device', str(path))

    monkeypatch.setitem(files.WRITERS, 'onnx', full)
    file = tmp_path / 'out/model.onnx'
    assert main(['export', *model, '-o', str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'No space left on device' in line
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['-o', 'model.trt'], '-o model.trt: expected a name that ends with .onnx or'),
        (['-o', 'm.onnx', '--format', 'pt2'], 'expected a name that ends with .pt2'),
        (['--format', 'pt2', '--half'], '--half is for onnx and openvino'),
        (['--images', 'nothing'], 'no input: nothing is missing'),
    ],
)
def test_arguments(model, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['export', *model, *options]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_of_ours(exported, tmp_path, monkeypatch):
    content = exported.read_bytes()
    for suffix in ('.onnx', '.xml', '.pt2'):
        with pytest.raises(UserError, match='no file'):
            open_model(tmp_path / f'a{suffix}')
        broken = tmp_path / f'broken{suffix}'
        broken.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f'broken{suffix} cannot be read'):
            open_model(broken)
    with pytest.raises(UserError, match=r'expected one of \.onnx, \.xml, \.pt2'):
        open_model('model.pth')
    import onnx

    other = onnx.load(exported)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / 'other.onnx')
    with pytest.raises(UserError, match=r'was not written by `mmmeta export`: .* task'):
        open_model(tmp_path / 'other.onnx')
    with pytest.raises(
        UserError, match=r'expected an image, uint8 \(H, W, 3\), got fl'
    ):
        open_model(exported)(np.zeros((9, 9, 3)))
    with pytest.raises(UserError, match="device 'tpu' is unknown"):
        open_model(exported, 'tpu')
    with pytest.raises(UserError, match=r'has no CUDA; install onnxruntime-gpu'):
        open_model(exported, 'cuda')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r'mmmeta-backbones\[runtime\]'):
        open_model(exported)
