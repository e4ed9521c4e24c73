"""Quantization to int8: by ONNX Runtime for ONNX, by NNCF for OpenVINO."""

import ast
import io
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from mmmeta.errors import UserError, one_line, require

# Those with weights; attention's products stay in single precision.
LAYERS = ('Conv', 'Gemm', 'MatMul')
# The part of a model that a module is in; a cascade has several heads of a name.
PART = re.compile(
    r'\.model\.(backbone|neck|(?:roi_head\.)?(?:rpn_|bbox_|mask_|decode_)?head(?:\.\d+)?)'
    r'(?:\.|$)'
)
WITHOUT_LAST = ('backbone', 'neck')  # their last layers are quantized as well
SCOPES = 'pkg.torch.onnx.name_scopes'  # of a node: the modules that it is in


def layers_to_quantize(graph: Any) -> list[str]:
    """Return the names of the nodes to quantize.

    These are the layers of the backbone, the neck and the heads, except for the last
    ones of each head, whose results are compared with thresholds or move boxes.

    Args:
        graph: ONNX's, as PyTorch translates it (`onnx_ir.Graph`).
    """
    constants = set(graph.initializers.values())
    parts: dict[str, str] = {}  # by layer
    before: dict[Any, set[str]] = {}  # by tensor: the layers that it depends on
    followed: set[str] = set()  # layers with a later one in the same part
    for node in graph:  # in the order of computation
        if node.inputs and constants.issuperset(node.inputs):
            constants.update(node.outputs)
        above: set[str] = set().union(*(before.get(x, ()) for x in node.inputs))
        part = _part(node)
        if part and node.op_type in LAYERS and node.inputs[1] in constants:
            followed |= {name for name in above if parts[name] == part}
            parts[node.name] = part
            above.add(node.name)
        before.update(dict.fromkeys(node.outputs, above))
    return [
        name for name, part in parts.items() if part in WITHOUT_LAST or name in followed
    ]


def _part(node: Any) -> str | None:
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, '[]'))
    found = [match for x in scopes if (match := PART.search(x))]
    return found[-1][1] if found else None


def quantize_onnx(
    path: Path, layers: Collection[str], images: Sequence[np.ndarray]
) -> None:
    """Quantize FILE.onnx in place.

    Weights become int8, with a scale per channel, activations uint8, with the ranges
    that they have on the images.

    Args:
        path: The file.
        layers: The nodes to quantize.
        images: uint8, as the file takes them.

    Raises:
        MissingLibraryError: ONNX Runtime or ONNX is not installed.
        UserError: ONNX Runtime cannot do it.
    """
    quantization: Any = require('onnxruntime.quantization', 'onnx', '--int8')

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {'image': image}

    try:
        with _quiet():
            quantization.quantize_static(
                path,
                path,
                Reader(),
                nodes_to_quantize=list(layers),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    except OSError:
        raise
    except Exception as error:  # where a disk is full: 'Wire format was corrupt'
        raise UserError(
            f'ONNX Runtime cannot quantize {path.name} ({one_line(error)}): '
            'is the disk full?'
        ) from error


def quantize_openvino(
    model: Any, layers: Collection[str], images: Sequence[np.ndarray]
) -> Any:
    """Return a model quantized by NNCF; see `quantize_onnx`.

    Args:
        model: OpenVINO's, with the names of ONNX's nodes: a file has others.
        layers: The nodes to quantize.
        images: uint8, as the file takes them.

    Raises:
        MissingLibraryError: NNCF is not installed.
    """
    nncf = require('nncf', 'openvino', '--int8')
    others = [
        name
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ('Constant', 'Parameter', 'Result')
        # A convolution without its bias is NODE/WithoutBiases.
        and (name := node.get_friendly_name()).partition('/')[0] not in layers
    ]
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=others),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress lists of layers, progress, and advice that does not apply."""
    loggers = [logging.getLogger(), logging.getLogger('nncf')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
