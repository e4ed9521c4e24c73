"""MMDetection's detectors with tensors of fixed sizes after the heads.

The heads' networks are the model's own; what follows them in MMDetection selects by
value, so shapes would depend on the image. Here scores below zero mark what is left
out, and results are filled up to the largest number of detections.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmmeta.errors import UserError
from mmmeta.export.select import nms_top, roi_align_levels


class Detector(nn.Module, ABC):
    """What the detectors have in common: from a batch of images to detections.

    Args:
        model: MMDetection's detector, in evaluation mode.
    """

    has_masks = False
    model: Any  # the host library's

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return boxes (B, N, 4) in pixels of `images`, scores and labels (B, N).

        N is the config's `max_per_img`. Detections are ordered by score; after the last
        one boxes and scores are zero and labels -1. Detectors with masks also return
        those of the boxes (B, N, h, w), from 0 to 1.

        Args:
            images: (B, C, H, W), prepared.
            size: The images' height and width without padding.
        """
        maps = self.model.extract_feat(images)
        outputs = self.run_head(maps)
        found = [
            self.detect(_of_image(maps, i), _of_image(outputs, i), size)
            for i in range(images.shape[0])
        ]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    @abstractmethod
    def run_head(self, maps: Sequence[Tensor]) -> Any:
        """Return what the dense head computes from maps (B, C, H, W)."""

    @abstractmethod
    def detect(
        self, maps: Sequence[Tensor], outputs: Any, size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Return the detections of one image, from its maps (1, C, H, W)."""


class SingleStage(Detector):
    """A detector with one dense head, such as RetinaNet (1708.02002) or FCOS."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        head = model.bbox_head
        _check_dense_head(head)
        self.iou_threshold = _iou_threshold(head.test_cfg, 'bbox_head')

    def run_head(self, maps: Sequence[Tensor]) -> Any:
        return self.model.bbox_head(maps)

    def detect(
        self, maps: Sequence[Tensor], outputs: Any, size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        cfg = head.test_cfg
        logits, deltas, factors = (*outputs, None) if len(outputs) == 2 else outputs
        boxes, scores, labels = [], [], []
        for i, priors in enumerate(_priors(head, logits)):
            found = _probabilities(head, logits[i])
            found = torch.where(found > cfg.get('score_thr', 0), found, -1)
            anchors, classes, best = _top_pairs(found, cfg)
            if factors is not None:
                factor = _rows(factors[i], 1)[:, 0].sigmoid()[anchors]
                best = torch.where(best < 0, -1, best * factor)
            rows = _rows(deltas[i], head.bbox_coder.encode_size)[anchors]
            boxes.append(decode(head.bbox_coder, priors[anchors], rows))
            scores.append(best)
            labels.append(classes)
        clipped = clip(torch.cat(boxes), head.bbox_coder, size)
        return _select(
            clipped,
            _without_small(torch.cat(scores), clipped, cfg),
            torch.cat(labels),
            self.iou_threshold,
            cfg.max_per_img,
        )


class TwoStage(Detector):
    """Faster, Mask and Cascade R-CNN (1506.01497, 1703.06870, 1712.00726)."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _check_roi_head(model.roi_head)
        _check_rpn_head(model.rpn_head)
        self.rpn_threshold = _iou_threshold(model.rpn_head.test_cfg, 'rpn_head')
        self.iou_threshold = _iou_threshold(model.roi_head.test_cfg, 'roi_head')
        self.has_masks = model.roi_head.with_mask
        self.stages = _as_list(model.roi_head, 'bbox_head', 'bbox_roi_extractor')
        self.mask_stages = (
            _as_list(model.roi_head, 'mask_head', 'mask_roi_extractor')
            if self.has_masks
            else []
        )

    def run_head(self, maps: Sequence[Tensor]) -> Any:
        return self.model.rpn_head(maps)

    def detect(
        self, maps: Sequence[Tensor], outputs: Any, size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        rois, there = self._propose(outputs, size)
        summed = torch.zeros((), device=rois.device)
        for i, (head, extractor) in enumerate(self.stages):
            logits, deltas = head(self._regions(extractor, maps, rois))
            summed = summed + logits
            if i < len(self.stages) - 1:
                rois = self._refine(head, rois, logits, deltas, size)
        probabilities = (summed / len(self.stages)).softmax(-1)[:, :-1]
        found = self._detect(head, rois, there, probabilities, deltas, size)
        return (*found, self._masks(maps, found)) if self.has_masks else found

    def _propose(self, outputs: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the proposals (N, 4), and which of them there are (N,)."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        logits, deltas = outputs
        boxes, scores, groups = [], [], []
        for i, priors in enumerate(_priors(head, logits)):
            anchors, _, best = _top_pairs(_probabilities(head, logits[i]), cfg)
            rows = _rows(deltas[i], head.bbox_coder.encode_size)[anchors]
            boxes.append(decode(head.bbox_coder, priors[anchors], rows))
            scores.append(best)
            groups.append(torch.full_like(anchors, i))
        proposals = clip(torch.cat(boxes), head.bbox_coder, size)
        rois, _, labels = _select(
            proposals,
            _without_small(torch.cat(scores), proposals, cfg),
            torch.cat(groups),
            self.rpn_threshold,
            cfg.max_per_img,
        )
        return rois, labels >= 0

    def _regions(self, extractor: Any, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        used = maps[: extractor.num_inputs]
        with_image = torch.cat([torch.zeros_like(rois[:, :1]), rois], 1)
        levels = extractor.map_roi_levels(with_image, len(used))
        layer = extractor.roi_layers[0]
        return roi_align_levels(
            list(used),
            rois,
            levels,
            layer.output_size[0],
            [each.spatial_scale for each in extractor.roi_layers],
            layer.sampling_ratio,
        )

    def _refine(
        self,
        head: Any,
        rois: Tensor,
        logits: Tensor,
        deltas: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        if not head.reg_class_agnostic:
            label = logits[:, :-1].argmax(1)
            deltas = _of_label(
                deltas.unflatten(1, (-1, head.bbox_coder.encode_size)), label
            )
        return clip(decode(head.bbox_coder, rois, deltas), head.bbox_coder, size)

    def _detect(
        self,
        head: Any,
        rois: Tensor,
        there: Tensor,
        probabilities: Tensor,
        deltas: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        cfg = self.model.roi_head.test_cfg
        classes = head.num_classes
        if head.reg_class_agnostic:
            boxes = decode(head.bbox_coder, rois, deltas).repeat_interleave(classes, 0)
        else:
            boxes = decode(
                head.bbox_coder,
                rois.repeat_interleave(classes, 0),
                deltas.reshape(-1, head.bbox_coder.encode_size),
            )
        kept = (probabilities > cfg.score_thr) & there[:, None]
        scores = torch.where(kept, probabilities, -1)
        return _select(
            clip(boxes, head.bbox_coder, size),
            scores.flatten(),
            torch.arange(classes, device=rois.device).repeat(rois.shape[0]),
            self.iou_threshold,
            cfg.max_per_img,
        )

    def _masks(self, maps: Sequence[Tensor], found: tuple[Tensor, ...]) -> Tensor:
        boxes, _, labels = found
        summed = torch.zeros((), device=boxes.device)
        for head, extractor in self.mask_stages:
            logits = head(self._regions(extractor, maps, boxes))
            if not head.class_agnostic:
                logits = _of_label(logits, labels.clamp(min=0))
            else:
                logits = logits[:, 0]
            summed = summed + logits.sigmoid()
        return summed / len(self.mask_stages)


def _of_image(maps: Any, i: int) -> Any:
    """Return the part of nested tensors (B, ...) that is image i's, as (1, ...)."""
    if isinstance(maps, Tensor):
        return maps[i : i + 1]
    return maps if maps is None else type(maps)(_of_image(x, i) for x in maps)


def _select(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes, scores and groups, filled up to `count`."""
    chosen = nms_top(boxes, scores, groups, iou_threshold, count)
    there = chosen >= 0
    index = chosen.clamp(min=0)
    return (
        boxes[index] * there[:, None],
        scores[index] * there,
        torch.where(there, groups[index], -1),
    )


def decode(coder: Any, priors: Tensor, deltas: Tensor) -> Tensor:
    """Return boxes (N, 4), not clipped."""
    return coder.decode(priors, deltas, max_shape=None)


def clip(boxes: Tensor, coder: Any, size: tuple[int, int]) -> Tensor:
    """Clip boxes to the image if the coder does so."""
    if not coder.clip_border:
        return boxes
    height, width = (boxes.new_full((1,), x) for x in size)
    limit = torch.cat([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def _rows(x: Tensor, channels: int) -> Tensor:
    """Return a map (1, A * channels, H, W) as rows (H * W * A, channels)."""
    return x[0].permute(1, 2, 0).reshape(-1, channels)


def _priors(head: Any, logits: Sequence[Tensor]) -> list[Tensor]:
    sizes = [(x.shape[-2], x.shape[-1]) for x in logits]
    return head.prior_generator.grid_priors(
        sizes, dtype=logits[0].dtype, device=logits[0].device
    )


def _probabilities(head: Any, logits: Tensor) -> Tensor:
    """Return the classes' probabilities (anchors, classes) of a level."""
    rows = _rows(logits, head.cls_out_channels)
    return rows.sigmoid() if head.use_sigmoid_cls else rows.softmax(-1)[:, :-1]


def _top_pairs(scores: Tensor, cfg: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchors, classes and scores (K,) of a level's best scores.

    K is `nms_pre`; if there are fewer scores, the others are -1.

    The best K scores belong to the K anchors with the best classes, so only these are
    compared, rather than all classes of all anchors.

    Args:
        scores: (anchors, classes).
        cfg: The head's `test_cfg`.
    """
    count, classes = cfg.get('nms_pre', -1), scores.shape[1]
    if count > 0:
        best = scores.amax(1)
        top, anchors = torch.cat([best, best.new_full((count,), -1)]).topk(count)
        # A tensor: PyTorch cannot translate every `clamp` to a size.
        last = anchors.new_full((), scores.shape[0] - 1)
        anchors = torch.minimum(anchors, last)
        rows = torch.where((top < 0)[:, None], -1, scores[anchors])
        values, pairs = rows.flatten().topk(count)
        return anchors[pairs // classes], pairs % classes, values
    pairs = torch.arange(scores.numel(), device=scores.device)
    return pairs // classes, pairs % classes, scores.flatten()


def _without_small(scores: Tensor, boxes: Tensor, cfg: Any) -> Tensor:
    """Mark boxes (..., 4) that are too small by scores of -1."""
    least = cfg.get('min_bbox_size', -1)
    if least < 0:
        return scores
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides > least).all(-1), scores, -1)


def _of_label(x: Tensor, labels: Tensor) -> Tensor:
    """Return x[i, labels[i]] for each i."""
    index = labels.view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])
    return x.gather(1, index).squeeze(1)


def _as_list(roi_head: Any, *names: str) -> list[tuple[Any, Any]]:
    """Return the head and the extractor of each stage."""
    parts = [getattr(roi_head, name) for name in names]
    lists = [list(x) if isinstance(x, nn.ModuleList) else [x] for x in parts]
    return list(zip(*lists, strict=True))


# -- what can be exported ---------------------------------------------------------


def _refuse(part: str, reason: str) -> None:
    raise UserError(
        f'{part} cannot be exported: {reason}. Heads like those of RetinaNet and FCOS, '
        "and Faster, Mask and Cascade R-CNN's can be"
    )


def _same_method(head: Any, base: type, name: str) -> bool:
    return getattr(type(head), name) is getattr(base, name)


def _iou_threshold(cfg: Any, part: str) -> float:
    nms = dict(cfg.get('nms') or {})
    kind = nms.pop('type', 'nms')
    iou_threshold = nms.pop('iou_threshold', nms.pop('iou_thr', None))
    if kind != 'nms' or iou_threshold is None or nms.get('class_agnostic'):
        _refuse(part, f'its test_cfg.nms is {cfg.get("nms")}, expected type nms')
    return float(iou_threshold)


def _check_coder(head: Any, part: str) -> None:
    name = type(head.bbox_coder).__name__
    if name not in ('DeltaXYWHBBoxCoder', 'DistancePointBBoxCoder'):
        _refuse(part, f'its bbox_coder is {name}')


def _check_dense_head(head: Any) -> None:
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    part = f'bbox_head {type(head).__name__}'
    if not isinstance(head, BaseDenseHead) or not all(
        _same_method(head, BaseDenseHead, name)
        for name in ('_predict_by_feat_single', '_bbox_post_process', 'predict_by_feat')
    ):
        _refuse(part, 'it selects detections in its own way')
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        _refuse(part, f'its loss {type(head.loss_cls).__name__} has other scores')
    _check_coder(head, part)


def _check_rpn_head(head: Any) -> None:
    from mmdet.models.dense_heads import RPNHead

    part = f'rpn_head {type(head).__name__}'
    if not isinstance(head, RPNHead) or not all(
        _same_method(head, RPNHead, name)
        for name in ('_predict_by_feat_single', '_bbox_post_process')
    ):
        _refuse(part, 'it selects proposals in its own way')
    _check_coder(head, part)


def _check_roi_head(head: Any) -> None:
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    part = f'roi_head {type(head).__name__}'
    if type(head) not in (StandardRoIHead, CascadeRoIHead):
        _refuse(part, 'it is not a StandardRoIHead or CascadeRoIHead')
    if head.with_shared_head or not head.with_bbox:
        _refuse(part, 'it has a shared_head, or no bbox_head')
    for box_head, extractor in _as_list(head, 'bbox_head', 'bbox_roi_extractor'):
        name = f'bbox_head {type(box_head).__name__}'
        if not isinstance(box_head, BBoxHead) or not all(
            _same_method(box_head, BBoxHead, method)
            for method in (
                '_predict_by_feat_single',
                'predict_by_feat',
                'regress_by_class',
            )
        ):
            _refuse(name, 'it selects detections in its own way')
        if box_head.custom_cls_channels or box_head.custom_activation:
            _refuse(
                name, f'its loss {type(box_head.loss_cls).__name__} has other scores'
            )
        _check_coder(box_head, name)
        _check_extractor(extractor, SingleRoIExtractor)
    if head.with_mask:
        for mask_head, extractor in _as_list(head, 'mask_head', 'mask_roi_extractor'):
            if not isinstance(mask_head, FCNMaskHead) or not _same_method(
                mask_head, FCNMaskHead, '_predict_by_feat_single'
            ):
                _refuse(
                    f'mask_head {type(mask_head).__name__}', 'it is not an FCNMaskHead'
                )
            _check_extractor(extractor, SingleRoIExtractor)


def _check_extractor(extractor: Any, base: type) -> None:
    part = f'roi_extractor {type(extractor).__name__}'
    if type(extractor) is not base:
        _refuse(part, 'it is not a SingleRoIExtractor')
    for layer in extractor.roi_layers:
        if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
            _refuse(part, 'its roi_layer is not RoIAlign')
        if not layer.aligned:
            _refuse(part, 'its RoIAlign is not aligned')
        if layer.output_size[0] != layer.output_size[1]:
            _refuse(part, 'its regions are not square')
