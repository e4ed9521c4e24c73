"""Treating files named by a config as data: our processes never execute their code."""

import os
import pickle
from typing import Any, BinaryIO

from mmmeta.errors import InvalidValueError, one_line

# These make PyTorch's own loading ignore its list of safe classes.
UNSAFE = ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',)


def close_doors() -> None:
    """Prevent this process and its child processes from executing code in files.

    Checkpoints are read by `mmmeta.weights.scheme` instead of MMEngine's readers;
    pickle and YAML files that MMEngine reads may contain only plain data; other code
    reads torch files with PyTorch's default.
    """
    from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler

    import mmmeta.weights.scheme  # noqa: F401  (also needed for others' models)

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
        InvalidValueError: It contains more than that, or is damaged.
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
