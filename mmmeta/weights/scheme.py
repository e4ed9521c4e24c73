"""Reading all of MMEngine's checkpoints without executing code, including mmmeta://.

`load_from`, `--resume`, 'Pretrained', hubs and inferencers all use MMEngine's
`CheckpointLoader`, whose own readers unpickle anything. Importing this module replaces
all of them by `mmmeta.weights.reading` in this process.
"""

import io
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import ConfigDict
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmmeta.errors import MissingLibraryError
from mmmeta.weights.errors import CheckpointError
from mmmeta.weights.layouts import MMMETA
from mmmeta.weights.locate import WEB, locate, shown
from mmmeta.weights.names import SCHEME, find, nearest
from mmmeta.weights.reading import (
    ANNEALINGS,
    PLAIN,
    STATISTICS,
    MapLocation,
    check_entries,
    log_names,
    read_file,
    read_stream,
    unwrap,
)
from mmmeta.weights.state import parse, to_layout
from mmmeta.weights.trained import Trained
from mmmeta.weights.unpickle import STATES, RefusedError

# Where the classes of the data sets of `Trained.data` have their names.
DATA_SETS = {
    'COCO': ('mmdet', 'CocoDataset'),
    'ADE20K': ('mmseg', 'ADE20KDataset'),
}


def _method(owner: Any, name: Any) -> Any:
    """Replace `getattr` in a pickle, for the methods of MMEngine's own objects."""
    allowed = {HistoryBuffer: STATISTICS, OneCycleParamScheduler: ANNEALINGS}
    if not isinstance(owner, type) or name not in allowed.get(owner, ()):
        raise RefusedError('builtins.getattr')
    return getattr(owner, name)


def _set_log(owner: HistoryBuffer, state: Any) -> None:
    # Without the file's statistics, which would become those of all logs.
    kept = ('max_length', '_log_history', '_count_history')
    owner.__setstate__({key: state[key] for key in kept if key in state})


STATES[HistoryBuffer] = _set_log
# As MMEngine resumes it: the log is of MMEngine's own class.
RESUMED = {
    **PLAIN,
    **log_names(HistoryBuffer, OneCycleParamScheduler, ConfigDict, _method),
}


def load_from_mmmeta(
    filename: str, map_location: MapLocation = None
) -> dict[str, dict[str, Any]]:
    """Return a published checkpoint under mmmeta's own names.

    Its backbone is under `backbone.`, so that it suits a whole model as well as a
    backbone. From the rest of a detector's or segmentor's file only the names and
    colors of the classes are kept, as `meta['dataset_meta']`; if it has none, they are
    those of the data set that it was trained on. Read without running code, as
    everywhere in mmmeta.

    Args:
        filename: mmmeta://NAME.
        map_location: As for `torch.load`. Default: None.

    Raises:
        CheckpointError: An unknown name, no network, or a bad file.
    """
    content = read_file(locate(filename), map_location or 'cpu')
    state = to_layout(parse(unwrap(content, filename)), MMMETA.name)
    row = find(filename)
    if not isinstance(row, Trained):
        return {'state_dict': state}
    meta = content.get('meta') or {}
    known = {key.lower(): value for key, value in meta.items()}
    if isinstance(known.get('dataset_meta'), dict):
        known |= known['dataset_meta']
    if not known.get('classes'):
        known = _metainfo_of(row.data)
    names = {key: known[key] for key in ('classes', 'palette') if known.get(key)}
    return {'state_dict': state, 'meta': {'dataset_meta': names} if names else {}}


def _metainfo_of(data: str) -> dict[str, Any]:
    """Return names and colors of a data set's classes, {} without its library."""
    library, kind = DATA_SETS[data]
    try:
        return getattr(import_module(f'{library}.datasets'), kind).METAINFO
    except ImportError:
        return {}


def load_from_local(filename: str, map_location: MapLocation = None) -> Any:
    """Return a file's content, with its log in the form that MMEngine resumes.

    Args:
        filename: A path or an http(s) URL.
        map_location: As for `torch.load`. Default: None.

    Raises:
        CheckpointError: It cannot be obtained or read, or contains more than data.
    """
    return _harmless(read_file(locate(filename), map_location, RESUMED), filename)


def _harmless(content: Any, name: str) -> Any:
    """Return a checkpoint's content without the parts that MMEngine would execute.

    Its Runner executes `meta['config']` as a config, to get its number of GPUs.
    """
    if isinstance(content, dict):
        if isinstance(content.get('meta'), dict):
            content['meta'].pop('config', None)
        if isinstance(state := content.get('state_dict'), Mapping):
            check_entries(state, shown(name))
    return content


def _of_table(table: Callable[[], dict[str, str]]) -> Callable[[str, Any], Any]:
    """Return a loader of names in one of MMEngine's tables of URLs."""

    def load_from_table(filename: str, map_location: MapLocation = None) -> Any:
        scheme, _, name = filename.partition('://')
        known = table()
        if scheme in ('open-mmlab', 'openmmlab'):
            name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
        if name not in known:
            choices = ', '.join(nearest(name, list(known))) or 'none'
            raise CheckpointError(
                f'{filename} is not a name that MMEngine knows; nearest: {choices}'
            )
        address = known[name]
        if not address.startswith(WEB):  # in a user's table
            address = str(Path(mmengine_checkpoint._get_mmengine_home(), address))
        content = load_from_local(address, map_location)
        if scheme == 'mmcls':
            return mmengine_checkpoint._process_mmcls_checkpoint(content)
        return content

    return load_from_table


def load_from_ceph(filename: str, map_location: MapLocation = None) -> Any:
    """Return the content of an object in a Petrel store; see `load_from_local`."""
    backend = get_file_backend(filename, backend_args={'backend': 'petrel'})
    with io.BytesIO(backend.get(filename)) as file:
        return _harmless(read_stream(file, filename, map_location, RESUMED), filename)


def load_from_pavi(filename: str, map_location: MapLocation = None) -> Any:
    """Return the content of a model in Pavi's cloud; see `load_from_local`."""
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise MissingLibraryError(f'{filename} needs pavi: {error}') from error
    model = modelcloud.get(filename.removeprefix('pavi://'))
    with TemporaryDirectory() as folder:
        path = Path(folder, model.name)
        model.download(str(path))
        return load_from_local(str(path), map_location)


# All of MMEngine's schemes; the last is for paths.
LOADERS: dict[str, Callable[[str, Any], Any]] = {
    SCHEME: load_from_mmmeta,
    **dict.fromkeys(WEB, load_from_local),
    'pavi://': load_from_pavi,
    r'(\S+\:)?s3://': load_from_ceph,
    r'(\S+\:)?petrel://': load_from_ceph,
    'modelzoo://': _of_table(mmengine_checkpoint.get_torchvision_models),
    'torchvision://': _of_table(mmengine_checkpoint.get_torchvision_models),
    'open-mmlab://': _of_table(mmengine_checkpoint.get_external_models),
    'openmmlab://': _of_table(mmengine_checkpoint.get_external_models),
    'mmcls://': _of_table(mmengine_checkpoint.get_mmcls_models),
    '': load_from_local,
}
for scheme, loader in LOADERS.items():
    CheckpointLoader.register_scheme(scheme, loader, force=True)
