"""mmmeta's registries.

All but `TOKEN_MIXERS` are children of MMEngine's, so `type='mmmeta.PoolFormer'` builds
from MMDetection, MMSegmentation, MMPretrain or plain MMEngine without an import:
MMEngine imports `mmmeta.registry` when it sees the scope, and the registry imports
`mmmeta.models` when a type is looked up.
"""

from mmmeta.errors import MissingLibraryError

try:
    from mmengine.registry import HOOKS as MMENGINE_HOOKS
    from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
    from mmengine.registry import MODELS as MMENGINE_MODELS
    from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
    from mmengine.registry import Registry
except ImportError as error:
    raise MissingLibraryError(
        'mmmeta needs MMEngine: pip install "mmmeta-backbones[onedl]" (the '
        'maintained forks of MMEngine and its libraries) or '
        '"mmmeta-backbones[openmmlab]"; `mmmeta doctor` checks the installation'
    ) from error

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmmeta', locations=['mmmeta.models']
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmmeta',
    locations=[
        *('mmmeta.hosts.hooks', 'mmmeta.hosts.saving'),
        *('mmmeta.hosts.preemption', 'mmmeta.hosts.bad_steps'),
    ],
)
RUNNERS = Registry(
    'runner',
    parent=MMENGINE_RUNNERS,
    scope='mmmeta',
    locations=['mmmeta.hosts.sharding'],
)
MODEL_WRAPPERS = Registry(
    'model wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmmeta',
    locations=['mmmeta.hosts.parallel'],
)

# Users register their own mixers here, from their own files:
#     @TOKEN_MIXERS.register_module()
#     class MyMixer(nn.Module):
#         def __init__(self, dim, k=3): ...
TOKEN_MIXERS = Registry('token mixer', scope='mmmeta', locations=['mmmeta.models'])
