"""The quick start notebook is valid and runs."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / 'notebooks/quickstart.ipynb'


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = (c for c in notebook.cells if 'parameters' in c.metadata.get('tags', []))
    return cell


def printed(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    (cell,) = (c for c in notebook.cells if c.id == cell_id)
    return ''.join(
        out.text
        for out in cell.outputs
        if out.output_type == 'stream' and out.name == 'stdout'
    )


def picture(notebook: nbformat.NotebookNode, cell_id: str) -> np.ndarray:
    (cell,) = (c for c in notebook.cells if c.id == cell_id)
    (data,) = (out.data['image/jpeg'] for out in cell.outputs if 'data' in out)
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def test_it_is_valid_and_small(notebook):
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 300_000
    names = {}
    exec(parameters(notebook).source, names)
    assert names['NUM_TRAIN'] > names['NUM_VAL'] > 0
    assert names['EPOCHS'] > 1
    # Stored outputs must not reveal the machine they were made on.
    assert not re.search(r'/(home|root|tmp|work)/', PATH.read_text())


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
    parameters(notebook).source = (
        f'FOLDER = {str(tmp_path / "work")!r}\n'
        'NUM_TRAIN, NUM_VAL = 24, 2\n'
        'EPOCHS = 3\n'
        'SHOWN = 2\n'
    )
    NotebookClient(
        notebook, timeout=300, resources={'metadata': {'path': ROOT / 'notebooks'}}
    ).execute()

    assert printed(notebook, 'make-data').startswith('train: 24 images')
    losses = [
        float(loss)
        for loss in re.findall(
            r'epoch \d of 3: loss (\S+)', printed(notebook, 'training')
        )
    ]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert re.fullmatch(
        r'AP +\d+\.\d\nAP50 +\d+\.\d\nAP75 +\d+\.\d\n', printed(notebook, 'ap')
    )
    assert printed(notebook, 'backbone').splitlines()[-1] == '(1, 512, 7, 7)'
    assert '(1, 1000) logits' in printed(notebook, 'classifier')
    assert 'mmmeta://poolformer_s12.sail_in1k' in printed(notebook, 'classifier')
    for name in ('show-data', 'loss-curve', 'predictions'):
        shown = picture(notebook, name)
        assert shown.std() > 10, name  # not blank
        assert min(shown.shape[:2]) > 150, name
