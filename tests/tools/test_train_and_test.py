"""The tools as users call them: train, kill, resume, test; and wrong usage."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from warm import WarmPython

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/detection/retinanet_poolformer_s12_shapes.py'


@pytest.fixture(scope='module')
def config(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's config, reduced: the small data set, two epochs, two stages deep."""
    path = tmp_path_factory.mktemp('config') / 'small.py'
    data = f'{shapes}/'
    loader = (
        f'dict(batch_size=2, num_workers=0, persistent_workers=False, '
        f'dataset=dict(data_root={data!r}))'
    )
    ann = f'{data}annotations/instances_val.json'
    path.write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        f'train_dataloader = {loader}\n'
        f'val_dataloader = {loader}\n'
        f'test_dataloader = {loader}\n'
        f'val_evaluator = dict(ann_file={ann!r})\n'
        f'test_evaluator = dict(ann_file={ann!r})\n'
        'train_cfg = dict(max_epochs=2, val_interval=2)\n'
        'model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), '
        'dims=(32, 64, 64, 64))), neck=dict(in_channels=[32, 64, 64, 64]))\n'
        'default_hooks = dict(logger=dict(interval=1))\n'
    )
    return path


@pytest.fixture(scope='module')
def trained(
    config: Path, warm_python: WarmPython, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A work folder: killed in the second epoch, then resumed to the end."""
    work = tmp_path_factory.mktemp('work')
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if 'Epoch(train) [2][ 3/12]' in line:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert (work / 'epoch_1.pth').is_file()
    assert not (work / 'epoch_2.pth').exists()
    tool = ROOT / 'tools/train.py'
    result = warm_python.run(tool, config, '--work-dir', work, '--resume')
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'resumed epoch: 1, iter: 12' in result.stdout + result.stderr
    assert 'Epoch(train) [1]' not in result.stdout
    return work


def test_a_killed_training_is_resumed(trained):
    state = torch.load(trained / 'epoch_2.pth', weights_only=False)
    assert state['meta']['epoch'] == 2
    assert state['meta']['iter'] == 24
    assert (trained / 'last_checkpoint').read_text().strip().endswith('epoch_2.pth')


def test_tested_scores_are_those_of_pycocotools(
    trained, config, shapes, warm_python, tmp_path
):
    result = warm_python.run(
        ROOT / 'tools/test.py',
        config,
        trained / 'epoch_2.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'found.pkl',
        '--show-dir',
        tmp_path / 'pictures',
        '--cfg-options',
        f'test_evaluator.outfile_prefix={tmp_path}/found',
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pictures = sorted((tmp_path / 'pictures').glob('*'))
    assert len(pictures) == 8
    assert cv2.imread(str(pictures[0])).shape == (128, 256, 3)

    truth = COCO(shapes / 'annotations/instances_val.json')
    evaluation = COCOeval(truth, truth.loadRes(f'{tmp_path}/found.bbox.json'), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    (log,) = tmp_path.glob('*/*.json')
    scores = json.loads(log.read_text().splitlines()[-1])
    assert scores['coco/bbox_mAP'] == pytest.approx(evaluation.stats[0], abs=6e-4)
    assert scores['coco/bbox_mAP_50'] == pytest.approx(evaluation.stats[1], abs=6e-4)

    with open(tmp_path / 'found.pkl', 'rb') as file:
        dumped = pickle.load(file)
    written = json.loads(Path(f'{tmp_path}/found.bbox.json').read_text())
    assert len(dumped) == 8
    assert sum(len(d['pred_instances']['scores']) for d in dumped) == len(written)


def test_inference_apis_take_the_config_and_the_checkpoint(trained, config, shapes):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    image = str(next((shapes / 'images/val').iterdir()))
    model = init_detector(str(config), str(trained / 'epoch_2.pth'), device='cpu')
    found = inference_detector(model, image).pred_instances
    inferencer = DetInferencer(
        str(config), str(trained / 'epoch_2.pth'), device='cpu', show_progress=False
    )
    (other,) = inferencer(image, no_save_vis=True, pred_score_thr=0)['predictions']
    np.testing.assert_allclose(found.scores, other['scores'], rtol=1e-4)
    with pytest.raises(FileNotFoundError, match=r'nothing\.jpg'):
        inference_detector(model, 'nothing.jpg')


def test_an_image_that_is_none_is_named(config, shapes, warm_python, tmp_path):
    broken = tmp_path / 'shapes'
    broken.mkdir()
    (broken / 'annotations').symlink_to(shapes / 'annotations')
    folder = broken / 'images/train'
    folder.mkdir(parents=True)
    (broken / 'images/val').symlink_to(shapes / 'images/val')
    for image in (shapes / 'images/train').iterdir():
        (folder / image.name).symlink_to(image)
    (folder / '000003.jpg').unlink()
    (folder / '000003.jpg').write_text('no image')
    result = warm_python.run(
        ROOT / 'tools/train.py',
        config,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={broken}/',
    )
    assert result.returncode == 1
    assert '000003.jpg' in result.stderr.splitlines()[-1]


def test_weights_that_do_not_fit_get_one_line(config, warm_python, tmp_path):
    torch.save({'stages.0.downsample.conv.weight': torch.ones(1)}, tmp_path / 'w.pth')
    child = tmp_path / 'child.py'
    init = dict(_delete_=True, type='Pretrained', checkpoint=f'{tmp_path}/w.pth')
    child.write_text(
        f'_base_ = {str(config)!r}\nmodel = dict(backbone=dict(init_cfg={init}))\n'
    )
    result = warm_python.run(ROOT / 'tools/train.py', child, '--work-dir', tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f'error: {tmp_path}/w.pth')
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['train.py', 'configs/none.py'], 'no config file configs/none.py'),
        (
            ['train.py', 'configs/detection/retinanet_poolformer_s12.py'],
            'data/coco/ does not exist. Put COCO 2017 (train2017.zip',
        ),
        (
            ['train.py', CONFIG],
            'data/shapes/ does not exist. Make the embedded data set: '
            'python -m mmmeta.datasets --root data/shapes',
        ),
        (['train.py', CONFIG, '--amp'], '--amp needs a GPU'),
        (['train.py', CONFIG, '--resume', 'none.pth'], 'no checkpoint none.pth'),
        (['test.py', CONFIG, 'none.pth'], 'no checkpoint none.pth'),
        (['test.py', CONFIG, CONFIG, '--tta'], '--tta needs tta_model'),
        (
            ['test.py', CONFIG, ROOT / 'README.md', '--out', 'found.json'],
            '--out must end in .pkl or .pickle, got found.json',
        ),
    ],
)
def test_wrong_calls_get_one_line(args, message, warm_python, tmp_path):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    name, *args = args
    result = warm_python.run(ROOT / 'tools' / name, *args, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.startswith('error: ') or 'error: ' in result.stderr
    assert 'Traceback' not in result.stderr


def test_an_unknown_arch_gets_one_line(shapes, warm_python, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/shapes').symlink_to(shapes)
    options = ['--cfg-options', 'model.backbone.arch=s11']
    result = warm_python.run(ROOT / 'tools/train.py', CONFIG, *options, cwd=tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: PoolFormer has no arch 's11'; choose from ['m36'")
    assert 'Traceback' not in result.stderr


def script(name: str, *args, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', ROOT / 'tools' / name, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **env},
    )


def pretend(folder: Path, command: str, code: str = 'printf "%s\\n" "$@"') -> str:
    """Return a PATH whose `command` prints its arguments, one per line."""
    (folder / command).write_text(f'#!/bin/sh\n{code}\n')
    (folder / command).chmod(0o755)
    return f'{folder}:{os.environ["PATH"]}'


@pytest.mark.parametrize(
    ('name', 'files'),
    [('dist_train.sh', ['config.py']), ('dist_test.sh', ['config.py', 'weights.pth'])],
)
def test_torchrun_gets_the_options(name, files, tmp_path):
    # tests/hosts/test_checkpoints.py runs two processes; here, what would be run.
    path = pretend(tmp_path, 'python')
    of = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='first', PORT='29611')
    result = script(name, *files, 8, '--work-dir', 'work', PATH=path, **of)
    assert result.returncode == 0, result.stderr
    words = result.stdout.split()
    assert words[:2] == ['-m', 'torch.distributed.run']
    expected = {'--nproc_per_node=8', '--nnodes=2', '--node_rank=1'}
    assert expected | {'--master_addr=first', '--master_port=29611'} <= set(words)
    tool = str(ROOT / 'tools' / name.removeprefix('dist_').replace('.sh', '.py'))
    options = ['--launcher', 'pytorch', '--work-dir', 'work']
    assert words[words.index(tool) + 1 :] == [*files, *options]


@pytest.mark.parametrize(('sent', 'status'), [('SIGUSR1', 75), ('SIGTERM', 1)])
def test_torchrun_gets_the_signals(sent, status, tmp_path):
    """The status is that of the processes where these could save, else torchrun's."""
    path = pretend(
        tmp_path,
        'python',
        'trap "echo got; [ $0 = none ] || printf 75 >$MMMETA_REQUEUE; exit 1" TERM\n'
        'echo ready; while :; do sleep 0.05; done',
    )
    if status == 1:
        text = (tmp_path / 'python').read_text().replace('printf 75', 'printf ""')
        (tmp_path / 'python').write_text(text)
    process = subprocess.Popen(
        ['bash', ROOT / 'tools/dist_train.sh', 'config.py', '2'],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PATH=path, TMPDIR=str(tmp_path)),
    )
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(getattr(signal, sent))
    assert process.communicate(timeout=60)[0] == 'got\n'
    assert process.returncode == status
    assert not list(tmp_path.glob('tmp.*'))


SLURM = ('slurm_train.sh', 'gpu', 'job', 'config.py', 'my work', '--amp')


def test_slurm_gets_the_options(tmp_path):
    """In a job, the step; without one, a job that is queued again after status 75."""
    path = pretend(tmp_path, 'srun')
    result = script(*SLURM, PATH=path, GPUS='4', SLURM_JOB_ID='7')
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert {'--ntasks=4', '--ntasks-per-node=4', '--gres=gpu:4'} <= set(words)
    train = ['python', '-u', str(ROOT / 'tools/train.py'), 'config.py']
    options = ['--work-dir', 'my work', '--launcher', 'slurm', '--amp']
    assert words[-9:] == [*train, *options]

    # sbatch runs the script that it is given as Slurm does.
    pretend(
        tmp_path,
        'sbatch',
        'printf "%s\\n" "$@"; for last; do :; done; echo ==\n'
        'exec sh -c "${last#--wrap=}"',
    )
    pretend(tmp_path, 'scontrol', 'echo scontrol "$@"')
    pretend(tmp_path, 'srun', 'printf "%s\\n" "$@"; exit $STATUS')
    for status in (0, 1, 75):
        environment = dict(PATH=path, GPUS='4', STATUS=str(status), GRACE='300')
        os.environ.pop('SLURM_JOB_ID', None)
        result = subprocess.run(
            ['bash', ROOT / 'tools' / SLURM[0], *SLURM[1:]],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        assert result.returncode == status, result.stderr
        job, step = result.stdout.split('==\n')
        assert {'--requeue', '--signal=USR1@300', '--ntasks=4'} <= set(job.split('\n'))
        assert '--output=my work/slurm-%j.out' in job
        lines = step.splitlines()
        assert ('scontrol requeue' in lines) == (status == 75)
        lines = [line for line in lines if line != 'scontrol requeue']
        assert lines[-10:] == [*train, *options, '--resume']


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts_say_how_they_are_called(name):
    result = script(name)
    assert result.returncode == 2
    assert f'tools/{name} ' in result.stderr
