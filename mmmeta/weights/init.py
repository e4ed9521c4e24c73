"""`init_cfg=dict(type='Pretrained', ...)` of a backbone, loaded strictly."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info

from mmmeta.weights import scheme  # noqa: F401  (makes mmmeta:// known to MMEngine)
from mmmeta.weights.loading import load_backbone

if TYPE_CHECKING:
    from mmmeta.models.metaformer import MetaFormer

_PRETRAINED = ('Pretrained', 'PretrainedInit', PretrainedInit)


def init_weights(module: 'MetaFormer', init_others: Callable[[], None]) -> None:
    """Initialise a backbone as its `init_cfg` says.

    MMEngine's own 'Pretrained' reads any pickle where a safe reading fails, knows one
    layout and only logs what does not fit; here `load_backbone` does it, with the
    options `checkpoint`, `prefix` and `map_location`. The other entries of a list
    come first and go MMEngine's way.

    Args:
        module: The backbone.
        init_others: `BaseModule.init_weights` of it.

    Raises:
        CheckpointError: As for `load_backbone`.
    """
    init_cfg = module.init_cfg
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    pretrained = [cfg for cfg in cfgs if cfg.get('type') in _PRETRAINED]
    if module.is_init or not pretrained:
        init_others()
        return
    others = [cfg for cfg in cfgs if cfg not in pretrained]
    # Inside a model MMEngine keeps account of what became of each parameter. A bare
    # backbone with nothing else to do is spared its printing of the account.
    in_model = hasattr(module, '_params_init_info')
    if in_model or others:
        module.init_cfg = others
        try:
            init_others()
        finally:
            module.init_cfg = init_cfg
    module.is_init = False  # should the loading fail, it may be tried again
    for cfg in pretrained:
        options = {key: value for key, value in cfg.items() if key != 'type'}
        report = load_backbone(module, **options)
        print_log(f'{type(module).__name__}: {report}', logger='current')
        if in_model:
            update_init_info(module, f'PretrainedInit: load from {report.source}')
    module.is_init = True
