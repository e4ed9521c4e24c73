"""Names and colors of a model's classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassNames:
    """Names and colors of classes, by index.

    Attributes:
        classes: The names. They may repeat: a class is its index.
        palette: The colors, RGB, 0 to 255, one per name.
        remark: The numbers of names and outputs, if they differ. Default: None.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    remark: str | None = None

    def extended(self, count: int) -> 'ClassNames':
        """Return a copy with numbers and random colors up to `count` classes."""
        return ClassNames(
            _names(list(self.classes), count), class_colors(list(self.palette), count)
        )


def class_names(
    model: 'nn.Module', cfg: 'Config', meta: Mapping[str, Any]
) -> ClassNames:
    """Return the names and colors of a model's classes.

    They come from the checkpoint, else from the config's test data if their number
    matches the model's classes, else they are numbers. Numbers also replace empty or
    missing names, and random colors replace missing colors.

    Args:
        model: The model.
        cfg: Its config.
        meta: The entry `meta` of its checkpoint.
    """
    count = num_outputs(model)
    known = _known(meta)
    names, remark = _list(known.get('classes')), None
    if names:
        if count not in (0, len(names)):
            remark = f'{len(names)} class names and {count} outputs'
    else:
        known, stated = _of_test_data(cfg)
        names = _list(known.get('classes'))
        if count not in (0, len(names)):
            if stated:
                remark = f'{len(names)} class names in the config and {count} outputs'
            names, known = [], {}
    size = max(len(names), count)
    palette = _list(known.get('palette'))
    return ClassNames(_names(names, size), class_colors(palette, size), remark)


def names_in(meta: Mapping[str, Any]) -> ClassNames:
    """Return the names and colors in the entry `meta` of a checkpoint, if any."""
    known = _known(meta)
    names = _list(known.get('classes'))
    palette = _list(known.get('palette'))
    return ClassNames(_names(names, len(names)), class_colors(palette, len(names)))


def _known(meta: Mapping[str, Any]) -> dict[str, Any]:
    inner = meta.get('dataset_meta')
    return _lower({**meta, **(inner if isinstance(inner, Mapping) else {})})


def num_outputs(model: 'nn.Module') -> int:
    """Return the number of classes of a model; 0 if it is unknown."""
    head = getattr(model, 'decode_head', None)
    if head is not None:  # a segmentor's, the last of a cascade
        head = head[-1] if hasattr(head, '__getitem__') else head
        if getattr(head, 'out_channels', None) == 1:  # one output for two classes
            return 2
        heads = [head]
    else:
        heads = [m for name, m in model.named_modules() if _tells_classes(name)]
    numbers = [getattr(head, 'num_classes', None) for head in heads]
    return max((number for number in numbers if isinstance(number, int)), default=0)


def _tells_classes(name: str) -> bool:
    """Whether a module is a head whose number of classes is the model's.

    A class-agnostic mask head's number of classes is meaningless.
    """
    return 'head' in name and 'mask_head' not in name and 'semantic_head' not in name


def _of_test_data(cfg: 'Config') -> tuple[dict[str, Any], bool]:
    """Return the data set's metainfo, and whether it is in the config itself."""
    from mmengine.registry import DATASETS

    dataset = cfg.test_dataloader.dataset
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        known = getattr(registry.get(dataset.get('type', '')), 'METAINFO', {})
    stated = _lower(dataset.get('metainfo') or {})
    return {**_lower(known), **stated}, 'classes' in stated


def _lower(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in meta.items()}


def _list(value: Any) -> list[Any]:
    """Return names or colors as a list; a single string is one name."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    try:
        return list(value)
    except TypeError:
        return []


def _names(names: list[Any], count: int) -> tuple[str, ...]:
    """Return names as text; numbers replace empty or missing ones."""
    text = ['' if name is None else str(name) for name in names]
    text += [''] * (count - len(text))
    return tuple(name if name.strip() else str(i) for i, name in enumerate(text))


def class_colors(palette: list[Any], count: int) -> tuple[Color, ...]:
    """Return colors, RGB, by index; random ones replace invalid or missing ones."""
    import numpy as np

    # The first random colors are the same for any count.
    chosen = np.random.RandomState(42).randint(0, 256, (count, 3)).tolist()
    for i, color in enumerate(palette[:count]):
        parts = [] if isinstance(color, str) else _list(color)
        if [isinstance(v, Real) and 0 <= float(v) <= 255 for v in parts] == [True] * 3:
            chosen[i] = [int(value) for value in parts]
    return tuple((r, g, b) for r, g, b in chosen)
