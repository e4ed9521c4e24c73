"""Names: of architectures, published classifiers, detectors and segmentors."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from mmmeta.archs.families import ARCHS
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.trained import TRAINED, Trained
from mmmeta.weights.zoo import ZOO, Published

SCHEME = 'mmmeta://'


def list_models(
    pattern: str = '*', pretrained: bool = False, task: str | None = None
) -> list[str]:
    """Return names, sorted.

    Args:
        pattern: Shell-style wildcards, such as '*former_s12'. Default: all.
        pretrained: List the published classifiers, `arch.tag`, instead of the
            architectures, both of which `create_model` takes. Default: False.
        task: List what is published for 'detection', 'segmentation' or
            'classification'; `mmmeta.load` takes these names. Default: None.
    """
    if task is not None:
        names: Iterable[str] = [n for n, r in published().items() if r.task == task]
    else:
        names = ZOO if pretrained else ARCHS
    return sorted(name for name in names if fnmatchcase(name, pattern))


def published() -> dict[str, Published | Trained]:
    """Return all published checkpoints by name."""
    return {**ZOO, **TRAINED}


def is_name(text: str) -> bool:
    """Whether `text` names a published checkpoint, with or without mmmeta://."""
    return text.startswith(SCHEME) or _row(text) is not None


def find(name: str) -> Published | Trained:
    """Return the row of a published checkpoint.

    Args:
        name: A detector's or segmentor's name, or a classifier's, `arch.tag`, or `arch`
            for the first of its tags; mmmeta:// before it is dropped.

    Raises:
        CheckpointError: There is no such row; the nearest names are in the message.
    """
    name = name.removeprefix(SCHEME)
    row = _row(name)
    if row is not None:
        return row
    arch = name.split('.')[0]
    choices = [n for n, row in ZOO.items() if row.arch == arch] or nearest(
        name, [*ZOO, *ARCHS, *TRAINED]
    )
    raise CheckpointError(
        f'no published checkpoint is called {name!r}'
        + (f'; nearest: {", ".join(choices)}' if choices else '')
        + '. `mmmeta list --task detection`, `segmentation` or `classification` prints '
        'all'
    )


def find_classifier(name: str) -> Published:
    """Return the row of a published classifier; as `find`.

    Raises:
        CheckpointError: There is no such row, or it is no classifier's.
    """
    row = find(name)
    if isinstance(row, Trained):
        raise CheckpointError(
            f'{row.name} is for {row.task}; expected a classifier, such as '
            'caformer_s18.sail_in1k (`mmmeta list --pretrained` prints all)'
        )
    return row


def _row(name: str) -> Published | Trained | None:
    first_tags = {row.arch: row for row in reversed(ZOO.values())}
    return published().get(name) or first_tags.get(name)


def nearest(name: str, names: list[str]) -> list[str]:
    """Return the names most like `name`, at most five."""
    return difflib.get_close_matches(name, names, 5, 0.5)
