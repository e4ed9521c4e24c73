"""Every kind of config exports to ONNX and OpenVINO, at three sizes of images.

It takes too long to be part of the tests, so it is run by hand:
    python -m pytest tests/export/sweep.py -s

Configs are reduced as in reduced_configs.py, and of those that differ in numbers alone
the first is exported. The weights are random, but of a size at which outputs differ:
scores that are alike would be in any order.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from reduced_configs import reduced, without_numbers

from mmmeta.export.compare import agreement
from mmmeta.export.files import convert_to_openvino, metadata_of, trace, write_onnx
from mmmeta.export.model import whole_model
from mmmeta.hosts.predictor import build_predictor
from mmmeta.runtime import open_model
from mmmeta.runtime.model import to_result

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('[a-z]*/*.py')
)
SIZES = (120, 180), (97, 64), (64, 211)
DONE: set[str] = set()


def write(path: str, folder: Path) -> tuple[str, str]:
    """Write a reduced config and random weights for it."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = reduced(path)
    file = folder / Path(path).name
    cfg.dump(file)
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if 'layer_scale' in name:
                parameter.uniform_(0.1, 0.5)
            elif parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    torch.save({'state_dict': model.state_dict()}, folder / 'weights.pth')
    return str(file), str(folder / 'weights.pth')


def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3)) for h, w in SIZES]
    return [
        np.kron(x, np.ones((8, 8, 1)))[:h, :w].astype(np.uint8)
        for x, (h, w) in zip(coarse, SIZES, strict=True)
    ]


@pytest.mark.parametrize('path', CONFIGS)
def test_export(path, tmp_path):
    kind = repr(without_numbers(reduced(path).model.to_dict()))
    if kind in DONE:
        pytest.skip('the same kind as one before')
    config, weights = write(path, tmp_path)
    predictor = build_predictor(config, weights, 'cpu')
    given = images()
    by_host = [predictor.result(predictor(image)) for image in given]
    whole = whole_model(predictor)
    metadata = metadata_of(predictor, whole.outputs, config, Path(weights))
    by_model = []
    for image in given:
        with torch.inference_mode():
            outputs = whole(torch.from_numpy(image[..., ::-1].copy()))
        arrays = {k: v.numpy() for k, v in zip(whole.outputs, outputs, strict=True)}
        by_model.append(to_result(metadata, arrays, image.shape[:2]))
    onnx, openvino = tmp_path / 'model.onnx', tmp_path / 'model.xml'
    write_onnx(trace(whole), onnx, metadata)
    convert_to_openvino(onnx, openvino, metadata)
    for file in (onnx, openvino):
        model = open_model(file)
        found = [model(image[..., ::-1]) for image in given]
        same, host = agreement(by_model, found), agreement(by_host, found)
        print(f'{path} {file.suffix}: {same}; with the host: {host}')
        assert same.share > 0.98
        assert same.count > 2
    DONE.add(kind)
