"""The runtimes: each opens a kind of file and gives its metadata and outputs."""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmmeta.errors import InvalidValueError, UserError, one_line, require

# Written by `mmmeta export`; without it a file is not ours.
KEYS = ('task', 'classes', 'palette')


class Session(Protocol):
    """An opened file.

    Attributes:
        metadata: What `mmmeta export` wrote, by name.
        outputs: Names of the outputs, in order.
    """

    metadata: dict[str, str]
    outputs: tuple[str, ...]

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an image or a batch, uint8 ([N,] H, W, C), RGB."""
        ...


class OnnxSession:
    """A file of ONNX Runtime; on a GPU if `device` is cuda or cuda:N."""

    def __init__(self, path: Path, device: str) -> None:
        runtime = require('onnxruntime', 'runtime', f'{path}')
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # it warns of shapes that depend on the image
        # ONNX Runtime would start more threads than the process may use.
        options.intra_op_num_threads = _wanted_threads() or _allowed_threads()
        self.session = runtime.InferenceSession(
            os.fspath(path), options, providers=_providers(runtime, device)
        )
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        self.outputs = tuple(output.name for output in self.session.get_outputs())

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {'image': image})


def _wanted_threads() -> int:
    """Return $OMP_NUM_THREADS, which limits PyTorch too; 0 if it has no number."""
    text = os.environ.get('OMP_NUM_THREADS', '')
    return int(text) if text.isdigit() else 0


def _allowed_threads() -> int:
    """Return how many cores the process may use; 0, all of them, if unknown."""
    known = hasattr(os, 'sched_getaffinity')
    return len(os.sched_getaffinity(0)) if known else 0


def _providers(runtime: Any, device: str) -> list:
    if device == 'cpu':
        return ['CPUExecutionProvider']
    if 'CUDAExecutionProvider' not in runtime.get_available_providers():
        raise UserError(
            f'device {device!r} cannot be used: this ONNX Runtime has no CUDA; install '
            'onnxruntime-gpu, or use --device cpu'
        )
    number = int(device.partition(':')[2] or 0)
    return [('CUDAExecutionProvider', {'device_id': number}), 'CPUExecutionProvider']


class OpenVinoSession:
    """A file of OpenVINO, on the CPU, in the precision that it was exported for."""

    def __init__(self, path: Path, device: str) -> None:
        if device != 'cpu':
            raise UserError(
                f'device {device!r} cannot be used with a file of OpenVINO; expected '
                'cpu'
            )
        openvino = require('openvino', 'openvino', f'{path}')
        core = openvino.Core()
        model = core.read_model(os.fspath(path))
        self.metadata = {
            key: str(value.value)
            for key, value in model.get_rt_info().items()
            if key in KEYS
            or key.startswith(('score', 'mask', 'precision', 'config', 'batch'))
        }
        # Compiled, an output may have other names besides.
        self.outputs = tuple(output.get_any_name() for output in model.outputs)
        settings = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_PRECISION_HINT': self.metadata.get('precision', 'f32'),
        }
        if threads := _wanted_threads():
            settings['INFERENCE_NUM_THREADS'] = str(threads)
        self.compiled = core.compile_model(model, 'CPU', settings)

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        found = self.compiled(image)
        return [np.array(found[i]) for i in range(len(self.outputs))]


class TorchSession:
    """A program of PyTorch, which is imported only here."""

    def __init__(self, path: Path, device: str) -> None:
        self.torch = require('torch', 'onedl', f'{path}')
        require('torchvision', 'onedl', f'{path}')  # registers nms and roi_align
        program = self.torch.export.load(path)
        self.metadata = _torch_metadata(path)
        self.outputs = tuple(self.metadata.get('outputs', '').split(','))
        # Its guards would refuse sizes that fill one window of attention.
        self.module = program.module(check_guards=False)
        if device != 'cpu':
            self.module.to(device)
        self.device = device

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        with self.torch.inference_mode():
            tensor = self.torch.from_numpy(image).to(self.device)
            return [output.cpu().numpy() for output in self.module(tensor)]


def _torch_metadata(path: Path) -> dict[str, str]:
    """Return the program's `extra_files`, without PyTorch."""
    with zipfile.ZipFile(path) as archive:
        return {
            name.rpartition('/')[2]: archive.read(name).decode()
            for name in archive.namelist()
            if name.rpartition('/')[0].endswith('extra')
        }


SESSIONS: dict[str, Callable[[Path, str], Session]] = {
    '.onnx': OnnxSession,
    '.xml': OpenVinoSession,
    '.pt2': TorchSession,
}


def open_session(path: Path, device: str) -> Session:
    """Open a file by its suffix.

    Raises:
        InvalidValueError: Another suffix.
        MissingLibraryError: Its runtime is not installed; names the extra.
        UserError: It cannot be read, or was not written by `mmmeta export`.
    """
    with _reading(path):
        session = SESSIONS[path.suffix](path, device)
    _check(path, session.metadata)
    return session


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Return what `mmmeta export` wrote of a model.

    Raises:
        InvalidValueError, MissingLibraryError, UserError: As for `open_session`.
    """
    file = Path(path)
    if file.suffix != '.pt2':
        return open_session(file, 'cpu').metadata
    with _reading(file):  # to open it would take PyTorch, and seconds
        metadata = _torch_metadata(file)
    _check(file, metadata)
    return metadata


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Check that there is such a file, and raise UserError if it cannot be read."""
    if path.suffix not in SESSIONS:
        raise InvalidValueError(
            f'{path} is not an exported model; expected one of {", ".join(SESSIONS)}'
        )
    if not path.is_file():
        raise UserError(f'no file {path}')
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the runtimes raise their own kinds
        raise UserError(f'{path} cannot be read: {one_line(error)}') from error


def _check(path: Path, metadata: Mapping[str, str]) -> None:
    missing = [key for key in KEYS if key not in metadata]
    if missing:
        raise UserError(
            f'{path} was not written by `mmmeta export`: it has no '
            f'{", ".join(missing)} in its metadata'
        )
