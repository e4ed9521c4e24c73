"""Several processes with whole models (DDP), also on machines without a GPU."""

import ctypes
import logging
import os
import re
import signal
import sys
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from torch import distributed, nn

from mmmeta.errors import UserError
from mmmeta.registry import MODEL_WRAPPERS
from mmmeta.weights.errors import first_few

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def use_cpu_if_alone(cfg: Config) -> None:
    """Let the processes of a launcher train on the CPU of a machine without a GPU.

    MMEngine selects a GPU for each of them, whatever backend the config names.
    """
    if get_device() != 'cpu':
        return
    if not distributed.is_initialized():
        distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    if wrapper.get('type') in (None, 'MMDistributedDataParallel'):
        wrapper['type'] = 'mmmeta.DistributedOnCpu'
    wrapper.setdefault('device_ids', None)
    cfg.model_wrapper_cfg = wrapper


def stop_with_torchrun() -> None:
    """Get SIGTERM when torchrun dies: by itself this process would go on forever.

    Where it has several machines, its other processes would, too, as long as this one.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def without_sync(model: nn.Module) -> nn.Module:
    """Return a model whose SyncBN, which needs a GPU, is plain on a CPU; log it."""
    layers = [m for m in model.modules() if 'SyncBatchNorm' in type(m).__name__]
    if layers and get_device() == 'cpu':
        print_log(
            f'{len(layers)} SyncBN layers need GPUs: on this CPU they are plain batch '
            "norms, of each process' own images",
            'current',
            logging.WARNING,
        )
        model = revert_sync_batchnorm(model)
    return model


@MODEL_WRAPPERS.register_module()
class DistributedOnCpu(MMDistributedDataParallel):
    """MMEngine's DDP for CPUs: SyncBN layers become plain ones.

    Args:
        module: The model.
        **options: Of PyTorch's DistributedDataParallel.
    """

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(without_sync(module), **options)


def raise_if_unused(model: nn.Module, error: RuntimeError) -> None:
    """Raise UserError if DDP's error is about parameters without a gradient.

    Args:
        model: The model, without wrappers.
        error: An error in a training step.
    """
    text = str(error)
    if not text.startswith('Expected to have finished reduction'):
        return
    found = re.search(r'did not receive grad for rank \d+: ([\d ]+)', text)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    names = [trained[int(i)] for i in found[1].split()] if found else ['some']
    raise UserError(
        f'parameters that got no gradient: {first_few(names)}. With several processes '
        'all need one: leave out what no loss uses (fork_last3=True for the norm of '
        "a backbone's first map), freeze it, or set find_unused_parameters = True in "
        'the config'
    ) from error
