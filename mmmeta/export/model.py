"""A whole model: from one image's bytes to its detections, map or classes."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.export.dense import Classifier, Segmentor, free_sizes
from mmmeta.export.detectors import Detector, SingleStage, TwoStage
from mmmeta.export.prepare import Prepare, build_prepare
from mmmeta.hosts.predictor import Predictor
from mmmeta.models.layers import take_means


class Whole(nn.Module, ABC):
    """A model with its test pipeline.

    Args:
        prepare: The pipeline.
        model: What follows it.
        outputs: The results' names.
    """

    prepare: Prepare
    model: Any

    def __init__(
        self, prepare: Prepare, model: nn.Module, outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.model = model
        self.outputs = outputs

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the results of images, uint8 (B, H, W, C), RGB."""


class WholeDetector(Whole):
    """Boxes (B, N, 4) in pixels of the image, scores, labels, and masks if any."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prepared, size = self.prepare(images)
        boxes, *others = self.model(prepared, size)
        # From pixels of the resized image to those of the given one.
        height, width = (
            boxes.new_full((1,), given / resized)
            for given, resized in zip(images.shape[1:3], size, strict=True)
        )
        return (boxes * torch.cat([width, height, width, height]), *others)


class WholeSegmentor(Whole):
    """The map of the classes' indices, int64 (B, H, W), and probabilities if asked for.

    These are (B, classes, H, W).
    """

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prepared, size = self.prepare(images)
        logits = self.model(prepared, size, (images.shape[1], images.shape[2]))
        several = logits.shape[1] > 1
        if several:
            labels = logits.argmax(1)
        else:
            threshold = self.model.model.decode_head.threshold
            labels = (logits[:, 0].sigmoid() > threshold).long()
        if len(self.outputs) == 1:
            return (labels,)
        return labels, logits.softmax(1) if several else logits.sigmoid()


class WholeClassifier(Whole):
    """The classes' probabilities (B, classes)."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prepared, _ = self.prepare(images)
        return (self.model(prepared),)


class OfOneImage(nn.Module):
    """A whole model of one image (H, W, C), whose results have no batch dimension."""

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole
        self.outputs = whole.outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(found[0] for found in self.whole(image[None]))


class ForModelApi(nn.Module):
    """A whole model with the inputs and outputs of OpenVINO's Model API.

    One image as a batch (1, H, W, C). Detectors' boxes are relative to the image's
    size; with masks, boxes and scores are one output (1, N, 5), and labels are lower by
    one, since Model API's wrapper adds one. Of segmentors the output is `scores`.

    Raises:
        UserError: A segmentor with one output for two classes.
    """

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole = whole
        self.outputs = whole.outputs
        if 'masks' in whole.outputs:
            self.outputs = 'boxes', 'labels', 'masks'
        elif 'boxes' in whole.outputs:
            self.outputs = 'bboxes', 'scores', 'labels'
        elif 'map' in whole.outputs:
            self.outputs = ('scores',)
            if whole.model.model.decode_head.out_channels == 1:
                raise UserError(
                    'Model API takes no segmentor with one output for two classes'
                )

    @property
    def wrapper(self) -> str:
        """The name of Model API's wrapper."""
        return {
            'boxes': 'MaskRCNN',
            'bboxes': 'SSD',
            'scores': 'Segmentation',
            'probabilities': 'Classification',
        }[self.outputs[0]]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.whole(image)
        if 'boxes' not in self.whole.outputs:
            return found[-1:]
        boxes, scores, labels, *masks = found
        height, width = (boxes.new_full((1,), 1 / x) for x in image.shape[1:3])
        boxes = boxes * torch.cat([width, height, width, height])
        if not masks:
            return boxes, scores, labels
        return torch.cat([boxes, scores[..., None]], -1), labels - 1, masks[0]


def whole_model(
    predictor: Predictor,
    scores: bool = False,
    batched: bool = False,
    model_api: bool = False,
) -> nn.Module:
    """Return a trained model with its test pipeline, for images of any size.

    Args:
        predictor: The model; it is changed, so it cannot be used afterwards.
        scores: A segmentor also returns probabilities. Default: False.
        batched: It takes a batch (B, H, W, C) and returns results with a batch
            dimension, instead of one image (H, W, C). Default: False.
        model_api: It has Model API's inputs and outputs. Default: False.

    Returns:
        A module with `outputs`, the names of its results.

    Raises:
        UserError: A part cannot be exported; the message names it.
    """
    model = predictor.model
    pipeline = predictor.config.test_dataloader.dataset.pipeline
    prepare = build_prepare(pipeline, model.data_preprocessor)
    free_sizes(model)
    take_means(model)
    whole: Whole
    if predictor.task == 'segmentation':
        outputs = ('map', 'scores') if scores or model_api else ('map',)
        whole = WholeSegmentor(prepare, Segmentor(model), outputs)
    elif predictor.task == 'classification':
        whole = WholeClassifier(prepare, Classifier(model), ('probabilities',))
    else:
        detector = _detector(model)
        names = ('boxes', 'scores', 'labels', 'masks')
        whole = WholeDetector(
            prepare, detector, names if detector.has_masks else names[:3]
        )
    if model_api:
        return ForModelApi(whole).eval()
    return (whole if batched else OfOneImage(whole)).eval()


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
