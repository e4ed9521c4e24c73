"""Training samples that are the same in every process, whenever a run is resumed.

Each sample has random states of its own, from the run's seed and its place in the
order of samples: neither the number of loading processes nor what was loaded before
changes it. So a run can begin anywhere in an epoch without loading what comes before.
"""

import os.path as osp
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, IterableDataset

from mmmeta.errors import one_line
from mmmeta.hosts.images import load_picture

SAMPLE, STEP, EPOCH = range(3)  # what is drawn for, so that no two seeds are the same
TRIES = 20  # images in a row that cannot be read
NOTES = 'mmmeta_notes'  # a key of a batch
STOP, SKIP = 'stop', 'skip'


def seed_all(*key: int) -> int:
    """Seed Python, NumPy and PyTorch's CPU generator; return a seed for others.

    Args:
        *key: Nonnegative integers.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    return int(words[3])


@dataclass
class Failure:
    """A file that cannot be read, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f'{self.path} cannot be read ({self.reason})'


@dataclass
class Replaced:
    """A sample in the place of others that cannot be read."""

    value: Any
    failures: list[Failure]
    path: str


class BadBatch(list):
    """Failures, in the place of the batch that has them."""


class Samples:
    """Reads the samples of a batch: the method `__getitems__` of a data set.

    Attributes:
        corrupt: 'stop' or 'skip', see BadStepHook; None raises the errors as they are.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.corrupt: str | None = None

    def __call__(self, places: Sequence[tuple[int, tuple | None]]) -> list:
        return [self._sample(index, key) for index, key in places]

    def _sample(self, index: int, key: tuple | None) -> Any:
        if key is not None:
            seed_all(*key)
        if self.corrupt is None:
            return self.dataset[index]
        found = self._read(index)
        if not isinstance(found, Failure) or self.corrupt == STOP:
            return found
        failures = [found]
        for step in range(1, TRIES):
            other = (index + step) % len(self.dataset)
            found = self._read(other)
            if not isinstance(found, Failure):
                return Replaced(found, failures, self._paths(other)[0])
            failures.append(found)
        return found

    def _read(self, index: int) -> Any:
        """Return a sample, or a Failure if it is one of its files that is bad."""
        try:
            sample = self.dataset[index]
        except Exception:
            for path in self._paths(index):
                if reason := _what_is_wrong(path):
                    return Failure(path, reason)
            raise
        meta = sample.get('data_samples') if isinstance(sample, dict) else None
        file = getattr(meta, 'img_path', None)
        # OpenCV only fills the missing part of a truncated file with gray.
        if isinstance(file, str) and _may_be_cut_off(file):
            reason = _what_is_wrong(file)
            return Failure(file, reason) if reason else sample
        return sample

    def _paths(self, index: int) -> list[str]:
        try:
            info = self.dataset.get_data_info(index)
        except Exception:  # not every data set has it
            return [f'sample {index}']
        paths = [info.get(key) for key in ('img_path', 'seg_map_path')]
        return [path for path in paths if isinstance(path, str)] or [f'sample {index}']


def _may_be_cut_off(path: str) -> bool:
    """Whether a JPEG file does not end as it should. It need not be damaged."""
    if not path.lower().endswith(('.jpg', '.jpeg')) or not osp.isfile(path):
        return False
    with open(path, 'rb') as file:
        file.seek(max(0, osp.getsize(path) - 2))
        return file.read() != b'\xff\xd9'


def _what_is_wrong(path: str) -> str:
    if '://' in path or path.startswith('sample '):
        return ''
    try:
        load_picture(path)
    except ValueError as error:
        return one_line(error)
    return ''


class Collate:
    """Makes a batch, or a BadBatch; notes in it say which samples were skipped."""

    def __init__(self, inner: Callable) -> None:
        self.inner = inner

    def __call__(self, samples: Sequence) -> Any:
        if failures := [s for s in samples if isinstance(s, Failure)]:
            return BadBatch(failures)
        replaced = [s for s in samples if isinstance(s, Replaced)]
        if not replaced:
            return self.inner(samples)
        batch = self.inner([s.value if isinstance(s, Replaced) else s for s in samples])
        notes = [
            f'{failure}: skipped, {other.path} takes its place'
            for other in replaced
            for failure in other.failures
        ]
        if isinstance(batch, dict):
            batch[NOTES] = notes
        else:
            print(*notes, sep='\n')
        return batch


class Batches:
    """A batch sampler that begins anywhere.

    Attributes:
        skip: Batches to leave out the next time it is iterated over.
        epoch: The number of the epoch, which counts in the seeds; each time that the
            sampler ends it is one more.
        seed: The seed of the samples; None leaves their random states alone.
        next_epoch: Begins the sampler's next epoch, if it ends while batches are left
            out. Default: None.
    """

    def __init__(self, inner: Any, samples: Samples | None) -> None:
        self.inner = inner
        self.samples = samples
        self.skip = 0
        self.epoch = 0
        self.seed: int | None = None
        self.next_epoch: Callable[[], None] | None = None
        self.rank, self.world_size = get_dist_info()

    def __getattr__(self, name: str) -> Any:
        if name == 'inner':  # while it is copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list]:
        skip, self.skip = self.skip, 0
        while True:
            number = -1
            for number, batch in enumerate(self.inner):
                if number >= skip:
                    yield self._places(number, batch)
            self.epoch += 1
            skip -= number + 1
            if skip <= 0 or number < 0 or self.next_epoch is None:
                return
            self.next_epoch()

    def _places(self, number: int, batch: list) -> list:
        if self.samples is None:
            return batch
        if self.seed is None:
            return [(index, None) for index in batch]
        # The place in the order of all processes, which take turns.
        size = self.size or len(batch)
        key = (self.seed, SAMPLE, self.epoch)
        return [
            (index, (*key, (number * size + i) * self.world_size + self.rank))
            for i, index in enumerate(batch)
        ]

    @property
    def size(self) -> int | None:
        """The samples of a batch, or None if the sampler does not tell."""
        size = getattr(self.inner, 'batch_size', None)
        return size if isinstance(size, int) else None

    @property
    def sampler_seed(self) -> int | None:
        """The seed of the order, the same in all processes; None without one."""
        seed = getattr(getattr(self.inner, 'sampler', None), 'seed', None)
        return seed if isinstance(seed, int) else None

    @sampler_seed.setter
    def sampler_seed(self, seed: int) -> None:
        self.inner.sampler.seed = seed
        self.restart()

    def restart(self) -> None:
        """Let an endless order of samples begin again."""
        sampler: Any = getattr(self.inner, 'sampler', None)
        if hasattr(sampler, '_indices_of_rank'):  # MMEngine's InfiniteSampler
            sampler.indices = sampler._indices_of_rank()


def install(loader: Any) -> Batches | None:
    """Let a data loader read by `Batches` and `Samples`; return None if it cannot.

    It cannot if its data set is a stream or has no batches. Call it before the loader's
    processes start.
    """
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return None
    if isinstance(loader.batch_sampler, Batches):
        return loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return None
    dataset: Any = loader.dataset
    samples: Samples | None = Samples(dataset)
    try:
        dataset.__getitems__ = samples  # where PyTorch looks for it
    except AttributeError:  # a list, which draws nothing
        samples = None
    batches = Batches(loader.batch_sampler, samples)
    # The loader refuses this as it derives others from it: its length, which stays.
    object.__setattr__(loader, 'batch_sampler', batches)
    if samples is not None:
        loader.collate_fn = Collate(loader.collate_fn)
    # MMEngine 0.10.7 has begun to load.
    batches.restart()
    loader._iterator = None
    return batches


def set_batch_size(loader: Any, size: int) -> None:
    """Change the samples of a batch before the loader is iterated over."""
    loader.batch_sampler.inner.batch_size = size
    if loader.batch_size is not None:
        object.__setattr__(loader, 'batch_size', size)
