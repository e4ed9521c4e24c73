"""Differences between MMDetection, MMSegmentation and MMPretrain: one row each.

A config's `default_scope` selects the library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmmeta.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass(frozen=True)
class Library:
    """A host library.

    Attributes:
        task: Its task: 'detection', 'segmentation' or 'classification'.
        base: Name of its models' base class, in its `models`.
        field: Field of a data sample that has the model's predictions.
        show: Changes a config to draw test predictions; called with the config, its
            visualization hook, whether to show windows, and the folder or None.
        dump: The evaluator that pickles test predictions; None if the metric writes
            maps into a folder.
        build_inferencer: Builds its inferencer for a config, on a device, with random
            weights.
    """

    task: str
    base: str
    field: str
    show: Callable[['Config', dict, bool, str | None], None]
    dump: str | None
    build_inferencer: Callable[['Config', str], Any]


def _show_detections(cfg: 'Config', hook: dict, show: bool, folder: str | None) -> None:
    hook.update(show=show, draw=True, test_out_dir=folder)


def _show_maps(cfg: 'Config', hook: dict, show: bool, folder: str | None) -> None:
    hook.update(show=show, draw=True)
    if folder:
        cfg.visualizer.save_dir = folder


def _show_classes(cfg: 'Config', hook: dict, show: bool, folder: str | None) -> None:
    hook.update(show=show, enable=True, out_dir=folder)


# Visualizers have no backends, which would create folders or require accounts.
def _detector(cfg: 'Config', device: str) -> Any:
    from mmdet.apis import DetInferencer

    cfg.visualizer = dict(type='DetLocalVisualizer')
    # There are no annotations, and those of panoptic data need a package of their own.
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [s for s in dataset.pipeline if not _loads_annotations(s)]
    # Without a palette, the data set would be built to get one.
    return DetInferencer(cfg, device=device, palette='random', show_progress=False)


def _loads_annotations(step: dict) -> bool:
    name = str(step.get('type')).rpartition('.')[2]
    return name.startswith('Load') and name.endswith('Annotations')


def _segmentor(cfg: 'Config', device: str) -> Any:
    from mmseg.apis import MMSegInferencer

    cfg.visualizer = dict(type='SegLocalVisualizer')
    inferencer = MMSegInferencer(cfg, device=device)
    inferencer.show_progress = False  # not an argument in MMSegmentation 1.2.2
    return inferencer


def _classifier(cfg: 'Config', device: str) -> Any:
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    inferencer = ImageClassificationInferencer(cfg, pretrained=False, device=device)
    inferencer.visualizer = UniversalVisualizer()
    return inferencer


LIBRARIES = {
    'mmdet': Library(
        'detection',
        'BaseDetector',
        'pred_instances',
        _show_detections,
        'DumpDetResults',
        _detector,
    ),
    'mmseg': Library(
        'segmentation', 'BaseSegmentor', 'pred_sem_seg', _show_maps, None, _segmentor
    ),
    'mmpretrain': Library(
        'classification',
        'BaseClassifier',
        'pred_score',
        _show_classes,
        'DumpResults',
        _classifier,
    ),
}
TASKS = tuple(library.task for library in LIBRARIES.values())


def library_of(cfg: 'Config', name: str) -> str:
    """Return the host library that a config is for, a key of `LIBRARIES`.

    Raises:
        UserError: It is for none of them; names the config as `name`.
    """
    scope = cfg.get('default_scope')
    if scope not in LIBRARIES:
        raise UserError(
            f'config {name} has default_scope {scope!r}; expected one of '
            f'{", ".join(LIBRARIES)}'
        )
    return scope
