"""Files that a config names are data, in a process of ours: nothing in them is run."""

import os
import pickle
from typing import Any, BinaryIO

from mmmeta.errors import InvalidValueError, one_line

# By these PyTorch's own reading gives up its list of what is safe.
UNSAFE = ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',)


def close_doors() -> None:
    """Keep this process, and those that it starts, from running what is in files.

    Checkpoints are read by `mmmeta.weights.scheme` in place of MMEngine's readers;
    files of pickle and YAML that MMEngine reads may hold plain data; what else reads
    torch files does so by PyTorch's default.
    """
    from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler

    import mmmeta.weights.scheme  # noqa: F401  (what is read may have no model of ours)

    for name in UNSAFE:
        os.environ.pop(name, None)

    @register_handler(['pickle', 'pkl'])
    class DataPickleHandler(PickleHandler):
        """Reads pickles of plain data, NumPy's arrays and MMEngine's proposals."""

        def load_from_fileobj(self, file: BinaryIO, **_: Any) -> Any:
            return read_pickle(file)

    @register_handler(['yaml', 'yml'])
    class DataYamlHandler(YamlHandler):
        """Reads YAML without tags that build Python's objects."""

        def load_from_fileobj(self, file: Any, **_: Any) -> Any:
            import yaml

            loader = getattr(yaml, 'CFullLoader', yaml.FullLoader)
            return super().load_from_fileobj(file, Loader=loader)


def read_pickle(file: BinaryIO) -> Any:
    """Return the plain data in a pickle.

    Raises:
        InvalidValueError: It holds more than that, or is damaged.
    """
    from mmengine.structures import InstanceData

    from mmmeta.weights.unpickle import (
        PLAIN_DATA,
        STATES,
        Pickle,
        RefusedError,
        set_attributes,
    )

    STATES[InstanceData] = set_attributes
    instances = {'mmengine.structures.instance_data.InstanceData': InstanceData}
    name = getattr(file, 'name', 'a pickle')
    try:
        return Pickle({**PLAIN_DATA, **instances}).load(file)
    except RefusedError as error:
        raise InvalidValueError(
            f'{name} was rejected: it contains more than plain data ({error}), which '
            'could run code; nothing was executed. If you trust its source, save its '
            'content again as lists, dicts and NumPy arrays'
        ) from None
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError) as error:
        raise InvalidValueError(f'{name} is a damaged pickle: {one_line(error)}') from (
            error
        )
