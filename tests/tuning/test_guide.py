"""docs/own_data.md, from folders to pictures: its commands run as printed.

The data and models are tiny, the weights random, and there are two epochs.
"""

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from tuning import tiny

from mmmeta.cli import main
from mmmeta.hosts.config import load_config
from mmmeta.tuning import train
from mmmeta.tuning.plan import DEFAULTS, METHODS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/own_data.md').read_text().split('\n## Training\n')[1]
EXAMPLES = {
    block.split()[2]: block.splitlines()
    for block in re.findall(r'```bash\n(.*?)```', TEXT, re.S)
    if block.startswith('mmmeta data')
}
FORMATS = dict(boxes='yolo', masks='coco', maps='png', classes='folders')


def test_there_is_an_example_for_each_task():
    assert list(EXAMPLES) == list(FORMATS)
    text = '\n'.join(map('\n'.join, EXAMPLES.values()))
    assert all(f'_{method}/config.py' in text for method in DEFAULTS.values())
    assert all(f'`{method}`' in TEXT for method in METHODS)


@pytest.mark.parametrize('name', EXAMPLES)
def test_from_a_folder_to_pictures(name, formats, tmp_path, monkeypatch, capsys):
    shapes = formats(FORMATS[name])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes, name)
    Path('photos').mkdir()
    for i, image in enumerate(sorted(shapes.rglob('*.jpg'))[:2]):
        shutil.copy(image, f'photos/{i}.jpg')
    write = train.write_text

    def write_tiny(path: Path, text: str) -> None:
        method = path.parent.name.partition('_')[2]
        write(path, text + tiny.COMMON + tiny.MORE[method])

    monkeypatch.setattr(train, 'write_text', write_tiny)
    for command in EXAMPLES[name]:
        words = [w for x in shlex.split(command) for w in glob.glob(x) or [x]]
        if words[1] == 'finetune':
            more = '--weights none --epochs 2 --batch-size 2 --workers 0'
            words += more.split()
        assert words[0] == 'mmmeta' and main(words[1:]) == 0, command
    pictures = sorted(path.name for path in Path('predictions/vis').iterdir())
    assert pictures == ['0.jpg', '1.jpg']
    assert 'Traceback' not in capsys.readouterr().err


def test_the_comparison_is_fair(formats, tmp_path):
    """The config of MMDetection alone does the same, and its lines are counted."""
    (code,) = re.findall(r'```python title=stock.py\n(.*?)```', TEXT, re.S)
    (lines,) = re.findall(r'lines of config to write \| 0 \| (\d+) \|', TEXT)
    assert len(code.splitlines()) == int(lines)
    (tmp_path / 'stock.py').write_text(code)
    stock = load_config(str(tmp_path / 'stock.py'))
    main(['finetune', str(formats('yolo')), '--dry-run', '--work-dir', f'{tmp_path}/w'])
    ours = Config.fromfile(tmp_path / 'w/config.py')
    for key in ('type', 'arch', 'init_cfg', 'fork_last3'):
        assert stock.model.backbone[key] == ours.model.backbone[key]
    assert stock.model.neck.in_channels == list(ours.model.neck.in_channels)
    assert stock.model.bbox_head.loss_cls == ours.model.bbox_head.loss_cls
    assert stock.train_cfg.type == ours.train_cfg.type
    optimizers = (stock.optim_wrapper.optimizer, ours.optim_wrapper.optimizer)
    assert {o.type for o in optimizers} == {'AdamW'}
    assert {o.weight_decay for o in optimizers} == {1e-4}
    stops = [c.default_hooks.early_stopping for c in (stock, ours)]
    # MMEngine's smallest improvement is 0.1, more than AP often rises in a training.
    assert {(s.monitor, s.min_delta) for s in stops} == {('coco/bbox_mAP', 0.001)}
