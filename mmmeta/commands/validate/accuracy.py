"""Accuracy of a classifier on a folder of class folders, like ImageNet's."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_loader, infer_imagenet_subset
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from mmmeta.data.folders import files_in
from mmmeta.errors import UserError, one_line
from mmmeta.hosts.classes import num_outputs
from mmmeta.hosts.images import load_picture
from mmmeta.hosts.predictor import hush
from mmmeta.models.build import create_model, create_with_head
from mmmeta.weights.zoo import Published

TOP = 5


@dataclass(frozen=True)
class Accuracy:
    """The result of a validation.

    Attributes:
        images: Number of images classified.
        top1: Percentage of images whose most likely class was correct.
        top5: Percentage with the correct class among the five most likely.
        images_per_second: Throughput, from file to logits.
        failed: The images that could not be read; not counted above.
        not_finite: Number of images with NaN or infinite logits, which count as wrong.
    """

    images: int
    top1: float
    top5: float
    images_per_second: float
    failed: list[str] = field(default_factory=list)
    not_finite: int = 0


class ClassFolders(Dataset):
    """Images of class folders; unreadable images are black.

    An item is the transformed image and its class index, or, for an unreadable image
    to be skipped, -1 - its position.

    Args:
        root: Contains a folder of images for each class.
        class_map: Class indices by folder; other folders are ignored.
        limit: Maximum number of images, evenly spread over all. Default: all.

    Raises:
        UserError: There are no images.
    """

    def __init__(
        self, root: Path, class_map: Mapping[str, int], limit: int | None = None
    ) -> None:
        endings = set(get_img_extensions())
        # Like timm, except for links that form cycles.
        samples = [
            (str(path), class_map[path.parent.name])
            for path in files_in(root, by_name=True)
            if path.parent != root
            and path.parent.name in class_map
            and path.suffix.lower() in endings
        ]
        samples.sort(key=lambda sample: natural_key(sample[0]))
        if not samples:
            raise UserError(f'no images in the class folders of {root}')
        count = min(limit or len(samples), len(samples))
        chosen = np.linspace(0, len(samples), count, endpoint=False, dtype=int)
        self.samples: list[tuple[str, int]] = [samples[i] for i in chosen]
        self.transform: Callable[[Image.Image], Any]  # set by timm's loader

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        try:
            return self.transform(load_picture(path).convert('RGB')), label
        except Exception:  # any error: `reason` reports it at the end
            return self.transform(Image.new('RGB', (1, 1))), -1 - index

    def reason(self, path: str) -> str:
        """Return why an image was skipped."""
        try:
            self.transform(load_picture(path).convert('RGB'))
        except Exception as error:
            return one_line(error)
        return 'it could be read the second time'


def load_model(row: Published, checkpoint: str | None = None) -> tuple[nn.Module, int]:
    """Return a classifier in evaluation mode and its number of classes.

    Args:
        row: The published model.
        checkpoint: A path, a URL or mmmeta://NAME of other weights for it, which set
            the model's number of classes. Default: the published weights.

    Raises:
        CheckpointError: The weights cannot be obtained or do not fit.
    """
    if checkpoint is None:
        with hush():
            return create_model(row.name).eval(), row.num_classes
    with hush():
        model = create_with_head(row.arch, checkpoint)
    return model.eval(), num_outputs(model)


def read_class_map(
    root: Path, num_classes: int, class_file: str | None = None
) -> dict[str, int]:
    """Return the class indices by folder.

    They are the line numbers in `class_file`; else, if there are as many folders as
    classes, the positions in sorted order; else, if all are WordNet ids, ImageNet's.

    Args:
        root: The data's folder.
        num_classes: The model's number of classes.
        class_file: A text file with one folder per line, in class order. Default: None.

    Raises:
        OSError: There is no such folder.
        UserError: The folders or the file do not match the model.
    """
    folders = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith('.')
    )
    if class_file is not None:
        return _from_file(class_file, num_classes)
    if len(folders) == num_classes:
        return {name: index for index, name in enumerate(folders)}
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if folders and subset is not None:
        known = {name: i for i, name in enumerate(ImageNetInfo(subset).label_names())}
        if known.keys() >= set(folders):
            return known
    raise UserError(
        f'{root} has {len(folders)} class folders, but the model {num_classes} '
        'classes; expected a folder for each class, whose sorted names are in class '
        "order, a subset of ImageNet's folders, such as n01440764, or --class-map"
    )


def _from_file(path: str, num_classes: int) -> dict[str, int]:
    try:
        # Like folder names, which may contain any bytes.
        names = Path(path).read_text('utf-8', 'surrogateescape').split('\n')
    except OSError as error:
        raise UserError(f'--class-map {path} cannot be read: {error}') from error
    names = [name.strip() for name in names if name.strip()]
    if not len(names) == len(set(names)) == num_classes:
        raise UserError(
            f'--class-map {path} has {len(names)} lines, {len(set(names))} of them '
            f'different; expected a folder for each of the {num_classes} classes'
        )
    return {name: index for index, name in enumerate(names)}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: ClassFolders,
    row: Published,
    *,
    batch_size: int = 64,
    workers: int = 4,
    device: str = 'cpu',
) -> Accuracy:
    """Classify all images and compute the accuracy.

    Args:
        model: Maps normalized images (B, 3, H, W) to logits (B, classes).
        data: The images.
        row: The published model: its size, crop, interpolation, mean and std are used.
        batch_size: Images per batch. Default: 64.
        workers: Processes that read images; 0 for none. Default: 4.
        device: Device of the model. Default: 'cpu'.

    Raises:
        UserError: No image can be read.
    """
    loader = create_loader(
        data,  # type: ignore[arg-type]  # it has all that timm uses
        row.input_size,
        batch_size,
        interpolation=row.interpolation,
        mean=row.mean,
        std=row.std,
        crop_pct=row.crop_pct,
        num_workers=workers,
        persistent_workers=False,
        pin_memory=device != 'cpu',
        device=torch.device(device),
    )
    model.to(device)
    right1 = right5 = not_finite = 0
    failed: list[str] = []
    start = time.perf_counter()
    with tqdm(total=len(data), unit='image', disable=None) as bar:
        for images, labels in loader:
            logits = model(images)
            ranked = logits.topk(min(TOP, logits.shape[1])).indices
            finite = logits.isfinite().all(1, keepdim=True)
            right = (ranked == labels[:, None]) & finite
            not_finite += int((~finite[:, 0] & (labels >= 0)).sum())
            right1 += int(right[:, 0].sum())
            right5 += int(right.sum())
            failed += [data.samples[-1 - i][0] for i in labels.tolist() if i < 0]
            bar.update(len(images))
    seconds = time.perf_counter() - start
    count = len(data) - len(failed)
    if not count:
        raise UserError(f'none of the {len(data)} images can be read')
    return Accuracy(
        count,
        100 * right1 / count,
        100 * right5 / count,
        count / seconds,
        failed,
        not_finite,
    )
