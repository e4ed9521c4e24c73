"""One score per class for models that have many: detectors and segmentors."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmmeta.errors import UserError

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector
    from mmseg.models.segmentors import BaseSegmentor

# Minimum score for a detector's box to count for its class.
CONFIDENT = 0.3
# Heads that multiply the scores of their maps with others, or mix them with boxes. Of
# other heads' results MMDetection keeps no gradients.
SCORES_IN_RESULTS = ('YOLOXHead', 'YOLOV3Head')
# Heads whose maps are probabilities instead of logits.
PROBABILITIES = ('TOODHead',)


class DenseScores(nn.Module):
    """Gives a detector or segmentor one score per class, like a classifier.

    It sums the class's probability over the positions where a segmentor predicts it, or
    over the anchors or boxes where a detector's probability is 0.3 or more.

    Args:
        model: Model of MMDetection or MMSegmentation; the mask head of a detector with
            two stages is removed.
        samples: The data samples of the batch that it will be called with.
            Default: None.
        num_classes: How many classes there are, at least. Default: 0.
    """

    def __init__(
        self,
        model: 'BaseDetector | BaseSegmentor',
        samples: Any = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.samples = samples
        self.num_classes = num_classes
        if getattr(model, 'with_mask', False) and hasattr(model, 'roi_head'):
            model.roi_head.mask_head = None  # slow and not needed

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (1, classes) for images (1, C, H, W).

        Raises:
            UserError: The model returns no instances.
        """
        if hasattr(self.model, 'decode_head'):
            scores = self._of_positions(images).flatten(2).transpose(1, 2)
            found = scores == scores.amax(-1, keepdim=True)
            threshold = self._threshold()
            if scores.shape[2] == 2 and threshold is not None:
                first = scores[..., 1:] <= threshold
                found = torch.cat([first, ~first], -1)
            return (scores * found).sum(1)
        scores = self._of_boxes(images)
        return (scores * (scores >= CONFIDENT)).sum(1)

    def _head(self) -> Any:
        """Return the head with the result, the last of a cascade."""
        head = self.model.decode_head
        return head[-1] if isinstance(head, nn.ModuleList) else head

    def _threshold(self) -> float | None:
        """Return the threshold of a head whose one output separates two classes."""
        head = self._head()
        one = getattr(head, 'out_channels', None) == 1
        return getattr(head, 'threshold', None) if one else None

    def _of_positions(self, images: Tensor) -> Tensor:
        """Return a segmentor's probabilities (1, classes, H, W)."""
        learns_queries = hasattr(self._head(), 'query_embed')
        if learns_queries or isinstance(self.model.decode_head, nn.ModuleList):
            metas = [sample.metainfo for sample in self.samples]
            logits = self.model.encode_decode(images, metas)
        else:
            logits = self.model(images)
        if learns_queries:
            return logits  # sums of the masks' probabilities
        if self._threshold() is None:
            return logits.softmax(1)
        return torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)

    def _of_boxes(self, images: Tensor) -> Tensor:
        """Return a detector's probabilities (1, boxes, classes)."""
        model = self.model
        if hasattr(model, 'roi_head') and not hasattr(model.rpn_head, 'num_proposals'):
            maps = model.extract_feat(images)
            with torch.no_grad():
                proposals = model.rpn_head.predict(maps, self.samples, rescale=False)
            logits = model.roi_head(maps, proposals, self.samples)[0]
            if isinstance(logits, list):  # a cascade returns one per image
                (logits,) = logits
            return logits.softmax(-1)[None, :, :-1]
        head: Any = getattr(model, 'bbox_head', None)
        if not _gives_maps(head):
            return self._of_results(images)
        scores = torch.cat(
            [
                level.permute(0, 2, 3, 1).reshape(1, -1, head.cls_out_channels)
                for level in head(model.extract_feat(images))[0]
            ],
            dim=1,
        )
        if _is_a(head, *PROBABILITIES):
            return scores
        if getattr(head, 'use_sigmoid_cls', True):
            return scores.sigmoid()
        return scores.softmax(-1)[..., :-1]

    def _of_results(self, images: Tensor) -> Tensor:
        """Return probabilities (1, boxes, classes), each box's for its class alone."""
        (sample,) = self.model.predict(images, self.samples, rescale=False)
        if 'pred_instances' not in sample:
            raise UserError(
                f'{type(self.model).__name__} returns no instances, which a detector '
                'is explained by'
            )
        found = sample.pred_instances
        count = max(self.num_classes, *(found.labels + 1).tolist(), 1)
        if torch.is_grad_enabled() and not found.scores.requires_grad:
            if len(found):
                raise UserError(
                    f'{type(self.model).__name__} keeps no gradients of its scores; '
                    'choose --method eigencam, which needs none'
                )
            maps = self.model.extract_feat(images)
            nothing = torch.stack([x.sum() * 0 for x in maps]).sum()
            return nothing.expand(1, 1, count)
        chosen = nn.functional.one_hot(found.labels, count)
        return (found.scores[:, None] * chosen)[None]


def _gives_maps(head: nn.Module | None) -> bool:
    """Return whether a head's first outputs are maps of scores for its anchors."""
    has_anchors = any('generator' in name for name in dir(head))
    usual = has_anchors and hasattr(head, 'cls_out_channels')
    return usual and not _is_a(head, *SCORES_IN_RESULTS)


def _is_a(head: nn.Module | None, *names: str) -> bool:
    return not {kind.__name__ for kind in type(head).__mro__}.isdisjoint(names)
