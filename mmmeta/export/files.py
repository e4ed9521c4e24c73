"""Writing a whole model as a file of ONNX, OpenVINO or PyTorch, with its metadata."""

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from mmmeta.errors import UserError, one_line, require
from mmmeta.export.quantize import (
    layers_to_quantize,
    quantize_onnx,
    quantize_openvino,
)
from mmmeta.hosts.predictor import Predictor
from mmmeta.version import __version__
from mmmeta.weights.download import sha256

if TYPE_CHECKING:
    from torch.export import ExportedProgram


Quantize: TypeAlias = Callable[[Sequence[np.ndarray]], None]
# Its sides differ, so that no size is taken for another's.
EXAMPLE = (331, 437)
SCORE_THRESHOLD = '0.3'
LARGE = 1024  # numbers; smaller weights stay in single precision


def metadata_of(
    predictor: Predictor, outputs: Sequence[str], config: str, checkpoint: Path
) -> dict[str, str]:
    """Return what a file says of its model, as text by name."""
    model: Any = predictor.model
    content = {
        'task': predictor.task,
        'outputs': ','.join(outputs),
        'classes': json.dumps(list(predictor.classes)),
        'palette': json.dumps([list(color) for color in predictor.palette]),
        'score_threshold': SCORE_THRESHOLD,
        'config': os.path.basename(config),
        'checkpoint_sha256': sha256(checkpoint),
        'mmmeta': __version__,
        'torch': torch.__version__,
    }
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, '_enable_normalize', False):
        for name in ('mean', 'std'):
            values = getattr(preprocessor, name).flatten().tolist()
            content[name] = json.dumps(values)
    if getattr(getattr(model, 'roi_head', None), 'with_mask', False):
        content['mask_threshold'] = str(model.roi_head.test_cfg.mask_thr_binary)
    return content


def model_api_info(predictor: Predictor, wrapper: str) -> dict[str, str]:
    """Return the metadata that OpenVINO's Model API reads.

    Args:
        predictor: The model.
        wrapper: Model API's class for it, such as SSD.
    """
    content = {
        'model_type': wrapper,
        # It separates names at spaces.
        'labels': ' '.join(name.replace(' ', '_') for name in predictor.classes),
        'confidence_threshold': SCORE_THRESHOLD,
        # Nothing is resized outside of the model, and boxes are relative.
        'embedded_processing': 'True',
        'resize_type': 'standard',
        'orig_width': '1',
        'orig_height': '1',
    }
    return {f'model_info.{key}': value for key, value in content.items()}


def trace(whole: Any, batch: int | None = None) -> 'ExportedProgram':
    """Return a whole model as a program for images of any size.

    PyTorch can translate it to ONNX only once.

    Args:
        whole: As `whole_model` returns it.
        batch: Images per call, if it is batched. Default: None, one without batch.

    Raises:
        UserError: PyTorch cannot express it; the message has its reason.
    """
    from torch.fx.experimental import _config

    shapes: Any = _config

    given = () if batch is None else (batch,)
    image = torch.randint(0, 256, (*given, *EXAMPLE, 3), dtype=torch.uint8)
    free = torch.export.Dim.DYNAMIC
    sides = {len(given): free, len(given) + 1: free}
    # Otherwise a size of one, such as one window of attention, is another program.
    with _quiet(), torch.no_grad(), shapes.patch(backed_size_oblivious=True):
        try:
            return torch.export.export(whole, (image,), dynamic_shapes=(sides,))
        except Exception as error:  # of many kinds
            raise UserError(
                f'this model cannot be exported by PyTorch: {one_line(error)}'
            ) from error


def write_pt2(
    program: 'ExportedProgram',
    path: Path,
    metadata: Mapping[str, str],
    half: bool = False,
) -> Quantize:
    """Write FILE.pt2, for `torch.export.load`; `half` and int8 are not supported."""
    # Where a disk is full, PyTorch's own writing to a file ends the process.
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content, extra_files=dict(metadata))
    path.write_bytes(content.getbuffer())
    return lambda images: None


def write_onnx(
    program: 'ExportedProgram',
    path: Path,
    metadata: Mapping[str, str],
    half: bool = False,
) -> Quantize:
    """Write FILE.onnx, with weights of half precision if `half`.

    Returns:
        A function that replaces the file by one quantized on given images.
    """
    layers = _write_onnx(program, path, metadata, half)
    return partial(quantize_onnx, path, layers)


def _write_onnx(
    program: 'ExportedProgram', path: Path, metadata: Mapping[str, str], half: bool
) -> list[str]:
    """Write FILE.onnx; return the names of the nodes that can be quantized."""
    for module in ('onnx', 'onnxscript'):
        require(module, 'onnx', 'format onnx')
    with _quiet():
        translated: Any = torch.onnx.export(
            program,
            input_names=['image'],
            output_names=metadata['outputs'].split(','),
            verbose=False,
        )
    model = translated.model
    layers = layers_to_quantize(model.graph)
    for node in model.graph:  # paths of source files, among others
        node.metadata_props.clear()
    model.metadata_props.update(metadata)
    if half:
        _halve(model)
    translated.save(path)
    return layers


def write_openvino(
    program: 'ExportedProgram',
    path: Path,
    metadata: Mapping[str, str],
    half: bool = False,
) -> Quantize:
    """Write FILE.xml and FILE.bin; if `half`, for bfloat16, with half the weights.

    By way of ONNX: OpenVINO does not translate PyTorch's arithmetic on sizes.

    Returns:
        As `write_onnx`.
    """
    require('openvino', 'openvino', 'format openvino')
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder, 'model.onnx')
        layers = _write_onnx(program, file, metadata, False)
        model = convert_to_openvino(file, path, metadata, half)

    def quantize(images: Sequence[np.ndarray]) -> None:
        _save_openvino(quantize_openvino(model, layers, images), path, half)

    return quantize


def convert_to_openvino(
    file: Path, path: Path, metadata: Mapping[str, str], half: bool = False
) -> Any:
    """Write FILE.xml and FILE.bin from FILE.onnx; see `write_openvino`.

    Returns:
        The same with the names of ONNX's nodes: conversion fuses some of them.
    """
    openvino = require('openvino', 'openvino', 'format openvino')
    core = openvino.Core()
    core.set_property({'ENABLE_MMAP': False})  # the file may be deleted
    named, model = core.read_model(file), openvino.convert_model(file)
    precision = 'bf16' if half else 'f32'
    for key, value in {**metadata, 'precision': precision}.items():
        for each in (named, model):
            # `model_info` is a section, in which Model API looks.
            each.set_rt_info(value, key.split('.'))
    _save_openvino(model, path, half)
    return named


def _save_openvino(model: Any, path: Path, half: bool) -> None:
    """Write FILE.xml and FILE.bin.

    Raises:
        UserError: They cannot be written.
    """
    openvino = require('openvino', 'openvino', 'format openvino')
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # of a full disk it says 'iostream error'
        raise UserError(
            f'OpenVINO cannot write {path.name} ({one_line(error)}): is the disk full?'
        ) from error


WRITERS = {'onnx': write_onnx, 'openvino': write_openvino, 'pt2': write_pt2}


def _halve(model: Any) -> None:
    """Store large weights in half precision; they are computed with in single.

    Runtimes convert them once, when they open the file.
    """
    import onnx_ir as ir

    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < LARGE:
            continue
        half = tensor.numpy().astype('float16')
        small = ir.Value(
            name=f'{value.name}_half',
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.tensor(half, name=f'{value.name}_half'),
        )
        cast = ir.node(
            'Cast', [small], attributes={'to': int(ir.DataType.FLOAT)}, num_outputs=1
        )
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        value.replace_all_uses_with(cast.outputs[0])
        model.graph.initializers.pop(value.name)
        model.graph.initializers[small.name] = small
        model.graph.insert_before(model.graph[0], cast)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' progress and remarks on how they express a model."""
    loggers = [logging.getLogger(n) for n in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
