"""Names and colors of a model's classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn


def class_names(
    model: 'nn.Module', cfg: 'Config', meta: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return the names and colors (RGB, 0 to 255) of a model's classes.

    They come from the checkpoint, else from the config's test data if their number
    matches the model's classes, else they are numbers. Unknown colors are random.

    Args:
        model: The model.
        cfg: Its config.
        meta: The entry `meta` of its checkpoint.
    """
    import numpy as np

    known = _lower({**meta, **(meta.get('dataset_meta') or {})})
    if not known.get('classes'):
        known = _of_test_data(cfg)
        count = _num_classes(model)
        if len(known.get('classes') or ()) != count:
            known = {'classes': map(str, range(count))}
    classes = tuple(known['classes'])
    palette = known.get('palette')
    if isinstance(palette, str) or len(palette or ()) != len(classes):
        palette = np.random.RandomState(42).randint(0, 256, (len(classes), 3)).tolist()
    return classes, tuple(tuple(map(int, color)) for color in palette)


def _of_test_data(cfg: 'Config') -> dict[str, Any]:
    """Return the metainfo of the data set without building it."""
    from mmengine.registry import DATASETS

    dataset = cfg.test_dataloader.dataset
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        known = getattr(registry.get(dataset.get('type', '')), 'METAINFO', {})
    return _lower({**known, **(dataset.get('metainfo') or {})})


def _num_classes(model: 'nn.Module') -> int:
    """Return the number of classes of a model of any host library."""
    heads = [
        module
        for name, module in model.named_modules()
        # A class-agnostic mask head's number of classes is meaningless.
        if 'head' in name and 'mask_head' not in name
    ]
    numbers = [getattr(head, 'num_classes', None) for head in heads]
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _lower(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in meta.items()}
