"""Fixtures shared by several test files."""

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from quick import quicken
from undrawn import nothing_drawn
from warm import WarmPython

# Tests of FORK_LAST3 set it themselves.
os.environ.pop('FORK_LAST3', None)
# Without it, OpenVINO starts processes that report every conversion to its maker.
sys.modules['openvino_telemetry'] = None
quicken()

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# The slowest files run first: at the end, no process waits long for the other.
LONGEST = (
    *('test_install.py', 'optimized/test_optimize.py', 'test_config_runs.py'),
    *('test_benchmarks.py', 'commands/test_demo_page.py', 'weights/test_golden.py'),
    *('test_docs.py', 'models/test_export.py', 'tools/test_train_and_test.py'),
    *('export/test_export.py', 'commands/test_export.py'),
    *('models/test_compile.py', 'weights/test_trained.py', 'commands/test_flops.py'),
    *('tools/test_demo.py', 'hosts/test_preemption.py', 'weights/test_layouts.py'),
    'test_configs.py',
    *('hosts/test_distributed.py', 'hosts/test_sharded_checkpoints.py'),
    *('models/test_mixed_precision.py', 'test_segmentation_configs.py'),
    *('test_notebook.py', 'commands/test_doctor.py', 'hosts/test_mmcv_ops.py'),
    *('commands/test_names.py', 'hosts/test_runner.py', 'models/test_metaformer.py'),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Skip random initialization, for weights that are overwritten anyway."""
    with nothing_drawn():
        yield


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Limit the size of files, so that writing fails as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.fixture(scope='session')
def warm_python() -> Iterator[WarmPython]:
    """For calls of the tools, most of whose time would be imports; without a GPU."""
    with WarmPython('mmdet.apis', 'mmseg.apis', CUDA_VISIBLE_DEVICES='') as python:
        yield python


@pytest.fixture(scope='session')
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small embedded data set: 24 training and 8 validation images of 128x128."""
    from mmmeta.datasets import make_shapes

    return make_shapes(
        tmp_path_factory.mktemp('data') / 'shapes',
        num_train=24,
        num_val=8,
        size=128,
        progress=False,
    )
