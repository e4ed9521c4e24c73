"""Several processes, or a run that goes on after an end, give one run's results."""

import json
import tarfile
from pathlib import Path

import pytest
from tiny_models import write_picture

from mmmeta.cli import main
from mmmeta.hosts.predictor import Predictor

COUNT = 5


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('images')
    for i in range(COUNT):
        write_picture(folder / f'{i}.png', (40 + i, 40), i)
    (folder / '3.png').write_bytes(b'not an image')
    return folder


def predict(model: list[str], images: Path, out: Path, *options: str) -> int:
    words = [*model, str(images), '--out-dir', str(out), '--no-vis', *options]
    return main(['predict', *words])


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def stop_at(width: int, monkeypatch) -> None:
    """Make the model end the process at the image of a width."""
    call = Predictor.__call__

    def stopped(self, images, *args):
        if not isinstance(images, list) or images[0].shape[1] != width:
            return call(self, images, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, '__call__', stopped)


@pytest.mark.parametrize('task', ['detector', 'segmentor', 'classifier'])
def test_results_are_those_of_one_run(
    task, images, tmp_path, request, monkeypatch, capsys
):
    model = request.getfixturevalue(task)
    assert predict(model, images, tmp_path / 'one') == 1  # of an image
    expected = content(tmp_path / 'one')
    assert expected and not any('part' in name for name in expected)

    # Two shards, the second one first, as torchrun names them.
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    predict(model, images, tmp_path / 'two')
    assert len(list((tmp_path / 'two').glob('*.2-of-2.jsonl.part'))) == 1
    monkeypatch.delenv('RANK')
    monkeypatch.delenv('WORLD_SIZE')
    predict(model, images, tmp_path / 'two', '--shard', '1/2')
    assert content(tmp_path / 'two') == expected

    # An interruption, and half a line, as of a process that was killed.
    with monkeypatch.context() as patch:
        stop_at(42, patch)
        assert predict(model, images, tmp_path / 'three') == 130
    (part,) = (tmp_path / 'three').glob('*.part')
    names = [json.loads(x).get('file_name') for x in part.read_bytes().splitlines()]
    assert names == [None, '0.png', '1.png']
    with part.open('ab') as file:
        file.write(b'{"file_name": "2.png", "x')
    capsys.readouterr()
    assert predict(model, images, tmp_path / 'three', '--resume') == 1
    assert '1 of 3 images failed' in capsys.readouterr().err
    assert content(tmp_path / 'three') == expected
    # Nothing to go on with: a new run.
    assert predict(model, images, tmp_path / 'three', '--resume') == 1
    assert content(tmp_path / 'three') == expected


def test_tar_files(classifier, images, tmp_path, capsys):
    for name, numbers in (('a', '013'), ('b', '24')):
        with tarfile.open(tmp_path / f'{name}.tar', 'w') as file:
            for number in numbers:
                file.add(images / f'{number}.png', f'x/{number}.png')
            file.add(images / '0.png', 'notes.txt')
    words = ['predict', *classifier, str(tmp_path / '*.tar'), '--out-dir']
    assert main([*words, str(tmp_path / 'out')]) == 1
    assert 'a.tar/x/3.png' in capsys.readouterr().err
    assert predict(classifier, images, tmp_path / 'one') == 1
    found, expected = (
        [line.split(',') for line in (tmp_path / f'{n}/top5.csv').read_text().split()]
        for n in ('out', 'one')
    )
    by_name = {(row[0].rpartition('/')[2], row[1]): row[2:] for row in found}
    assert by_name == {(row[0], row[1]): row[2:] for row in expected}
    assert found[1][0] == 'a.tar/x/0.png'
    assert (tmp_path / 'out/vis/b.tar/x/4.jpg').is_file()
    broken = tmp_path / 'c.tar'
    broken.write_bytes(b'x' * 2000)
    assert predict(classifier, broken, tmp_path / 'out') == 1
    assert 'cannot be read as a tar file' in capsys.readouterr().err
    with tarfile.open(broken, 'w') as file:
        file.add(images / '0.png', 'notes.txt')
    assert predict(classifier, broken, tmp_path / 'out') == 1
    assert 'a tar file without images' in capsys.readouterr().err


def test_what_cannot_be_resumed(classifier, detector, images, tmp_path, capsys):
    part = tmp_path / 'top5.jsonl.part'
    part.write_text('{"classes": ["x"]}\n')
    assert predict(classifier, images, tmp_path, '--resume') == 1
    assert 'is of another model or other images' in capsys.readouterr().err
    assert part.read_text() == '{"classes": ["x"]}\n'
    part.write_text('{"classes"\n')
    assert predict(classifier, images, tmp_path, '--resume') == 1
    assert 'top5.jsonl.part cannot be resumed' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', 'a/b', '1/', '-1/2'])
def test_shards_are_checked(text, classifier, images, tmp_path, capsys):
    assert predict(classifier, images, tmp_path, f'--shard={text}') == 1
    assert f"--shard '{text}': expected I/N" in capsys.readouterr().err
