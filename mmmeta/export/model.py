"""A whole model: from one image's bytes to its detections, map or classes."""

from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.export.dense import Classifier, Segmentor, free_sizes
from mmmeta.export.detectors import Detector, SingleStage, TwoStage
from mmmeta.export.prepare import Prepare, build_prepare
from mmmeta.hosts.predictor import Predictor


class WholeDetector(nn.Module):
    """Boxes in pixels of the image, scores, labels, and masks if there are any."""

    def __init__(self, prepare: Prepare, detector: Detector) -> None:
        super().__init__()
        self.prepare = prepare
        self.detector = detector

    @property
    def outputs(self) -> tuple[str, ...]:
        names = ('boxes', 'scores', 'labels', 'masks')
        return names if self.detector.has_masks else names[:3]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the detections of an image, uint8 (H, W, C), RGB."""
        images, size = self.prepare(image)
        boxes, *others = self.detector(images, size)
        # From pixels of the resized image to those of the given one.
        height, width = (
            boxes.new_full((1,), given / resized)
            for given, resized in zip(image.shape[:2], size, strict=True)
        )
        return (boxes * torch.cat([width, height, width, height]), *others)


class WholeSegmentor(nn.Module):
    """The map of the classes' indices, and the logits if asked for."""

    def __init__(self, prepare: Prepare, segmentor: Segmentor, scores: bool) -> None:
        super().__init__()
        self.prepare = prepare
        self.segmentor = segmentor
        self.scores = scores

    @property
    def outputs(self) -> tuple[str, ...]:
        return ('map', 'scores') if self.scores else ('map',)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map, int64 (H, W), of an image, uint8 (H, W, C), RGB.

        `scores` are the classes' probabilities (classes, H, W).
        """
        images, size = self.prepare(image)
        logits = self.segmentor(images, size, (image.shape[0], image.shape[1]))[0]
        if logits.shape[0] > 1:
            labels = logits.argmax(0)
        else:
            threshold = self.segmentor.model.decode_head.threshold
            labels = (logits[0].sigmoid() > threshold).long()
        if not self.scores:
            return (labels,)
        several = logits.shape[0] > 1
        return labels, logits.softmax(0) if several else logits.sigmoid()


class WholeClassifier(nn.Module):
    """The classes' probabilities."""

    outputs = ('probabilities',)

    def __init__(self, prepare: Prepare, classifier: Classifier) -> None:
        super().__init__()
        self.prepare = prepare
        self.classifier = classifier

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the probabilities (classes,) of an image, uint8 (H, W, C), RGB."""
        images, _ = self.prepare(image)
        return (self.classifier(images)[0],)


def whole_model(predictor: Predictor, scores: bool = False) -> nn.Module:
    """Return a trained model with its test pipeline, for one image of any size.

    Args:
        predictor: The model; it is changed, so it cannot be used afterwards.
        scores: A segmentor also returns probabilities. Default: False.

    Returns:
        A module with `outputs`, the names of its results.

    Raises:
        UserError: A part cannot be exported; the message names it.
    """
    model = predictor.model
    pipeline = predictor.config.test_dataloader.dataset.pipeline
    prepare = build_prepare(pipeline, model.data_preprocessor)
    free_sizes(model)
    if predictor.task == 'segmentation':
        whole: nn.Module = WholeSegmentor(prepare, Segmentor(model), scores)
    elif predictor.task == 'classification':
        whole = WholeClassifier(prepare, Classifier(model))
    else:
        whole = WholeDetector(prepare, _detector(model))
    return whole.eval()


def _detector(model: Any) -> Detector:
    from mmdet.models import CascadeRCNN, FasterRCNN, MaskRCNN, SingleStageDetector

    if isinstance(model, SingleStageDetector):
        return SingleStage(model)
    if type(model) in (FasterRCNN, MaskRCNN, CascadeRCNN):
        return TwoStage(model)
    raise UserError(
        f'detector {type(model).__name__} cannot be exported; expected a '
        'SingleStageDetector, FasterRCNN, MaskRCNN or CascadeRCNN'
    )
