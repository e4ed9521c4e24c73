"""The token mixers compared with their formulas, using explicit matrices."""

import copy
import math
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmmeta.models.metaformer import MetaFormer
from mmmeta.models.token_mixers import Attention, RandomMixing


def windows_of(x: Tensor, size: int):
    """Yield (rows, columns, tokens) for each window of a zero-padded map."""
    height, width = x.shape[2:]
    padded = F.pad(x, (0, -width % size, 0, -height % size))
    for top in range(0, height, size):
        for left in range(0, width, size):
            window = padded[:, :, top : top + size, left : left + size]
            rows = slice(top, min(top + size, height))
            columns = slice(left, min(left + size, width))
            yield rows, columns, window.flatten(2).transpose(1, 2)


def by_windows(x: Tensor, size: int, mix) -> Tensor:
    """Apply `mix`, tokens (B, N, C) -> (B, N, C), window by window."""
    out = torch.empty_like(x)
    for rows, columns, tokens in windows_of(x, size):
        mixed = mix(tokens).transpose(1, 2).unflatten(2, (size, size))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        out[:, :, rows, columns] = mixed[:, :, :height, :width]
    return out


def attend(mixer: Attention, tokens: Tensor) -> Tensor:
    """Attention with a score matrix, as in the papers."""
    weight, bias = mixer.qkv.weight.flatten(1), mixer.qkv.bias
    qkv = F.linear(tokens, weight, bias).chunk(3, -1)
    q, k, v = (t.unflatten(2, (-1, mixer.head_dim)).transpose(1, 2) for t in qkv)
    scores = (q @ k.transpose(2, 3) / math.sqrt(mixer.head_dim)).softmax(-1)
    out = (scores @ v).transpose(1, 2).flatten(2)
    return F.linear(out, mixer.proj.weight.flatten(1), mixer.proj.bias)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('shape', [(8, 12), (7, 9), (3, 2)])
@pytest.mark.parametrize('window', [None, 4])
def test_attention(bias, shape, window):
    mixer = Attention(24, head_dim=8, bias=bias, window_size=window).double()
    x = torch.randn(2, 24, *shape, dtype=torch.double)
    if window is None:
        tokens = x.flatten(2).transpose(1, 2)
        expected = attend(mixer, tokens).transpose(1, 2).reshape(x.shape)
    else:
        # Padded positions are not masked: with a bias they have keys and values.
        expected = by_windows(x, window, lambda tokens: attend(mixer, tokens))
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize('shape', [(14, 14), (28, 14), (17, 30), (5, 5)])
def test_random_mixing_by_windows(shape):
    mixer = RandomMixing(8).double()
    x = torch.randn(2, 8, *shape, dtype=torch.double)
    expected = by_windows(x, 14, lambda tokens: mixer.random_matrix @ tokens)
    torch.testing.assert_close(mixer(x), expected)


def test_random_mixing_resampled():
    window, resample = RandomMixing(8, 7), RandomMixing(8, 7, resize='resample')
    resample.load_state_dict(window.state_dict())
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(resample(x), window(x))
    # Rows sum to one at every size, so a constant map does not change.
    constant = torch.full((1, 8, 11, 18), 0.7)
    torch.testing.assert_close(resample(constant), constant)
    x = torch.randn(1, 8, 11, 18)
    assert not torch.allclose(resample(x), window(x), atol=1e-2)


@pytest.mark.parametrize('resize', ['window', 'resample'])
def test_random_matrices_stay_as_drawn(resize):
    mixers = [dict(type='Identity')] * 2
    mixers += [dict(type='RandomMixing', size=s, resize=resize) for s in (14, 7)]
    model = MODELS.build(
        dict(type='mmmeta.RandFormer', arch='s12', token_mixer=mixers)
    ).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 96)))
        loss.backward()
        optimizer.step()
    after = model.state_dict()
    random = {name for name in before if name.endswith('random_matrix')}
    assert len(random) == 8  # six blocks in stage 3, two in stage 4
    assert random.isdisjoint(dict(model.named_parameters()))
    assert all(after[name].equal(before[name]) for name in random)
    assert not any(after[name].equal(before[name]) for name in before.keys() - random)


ARCH = dict(depths=(1, 1, 8, 1), dims=(32, 64, 64, 64))


def uniformer(**kwargs) -> MetaFormer:
    return MODELS.build(dict(dict(type='mmmeta.UniFormer', arch=ARCH), **kwargs)).eval()


def stage3_with(model: MetaFormer, x: Tensor, windows: list[int | None]) -> Tensor:
    """Stage 3 of UniFormer with the given window of each block, by the formulas."""
    stage = model.stages[2]
    x = stage.downsample(x)
    for block, window in zip(stage.blocks, windows, strict=True):
        x = x + block.pos_embed(x)
        normed = block.norm1(x)
        size = window or max(x.shape[2:])
        if window is None:
            tokens = normed.flatten(2).transpose(1, 2)
            mixed = attend(block.token_mixer, tokens)
            x = x + mixed.transpose(1, 2).reshape(x.shape)
        else:
            mix = lambda tokens, b=block: attend(b.token_mixer, tokens)  # noqa: E731
            x = x + by_windows(normed, size, mix)
        x = x + block.mlp(block.norm2(x))
    return x


@pytest.mark.parametrize(
    ('height', 'width'), [(128, 192), (100, 150)], ids=['divisible', 'not-divisible']
)
def test_uniformer_switches_attention_on_the_same_weights(height, width):
    modes = {
        'global': [None] * 8,
        'window': [4] * 8,
        'hybrid': [4, 4, 4, None] * 2,
    }
    trained = uniformer()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    images = torch.randn(2, 3, height, width)
    outputs = {}
    for mode, windows in modes.items():
        model = uniformer(attention=mode, window_size=4)
        model.load_state_dict(trained.state_dict())
        with torch.no_grad():
            outputs[mode] = model(images)
            second = model.stages[1](model.stages[0](images))
            expected = model.norm2(stage3_with(model, second, windows))
        assert expected.shape[2] % 4 == (0 if height == 128 else 2)
        torch.testing.assert_close(outputs[mode][2], expected, atol=1e-4, rtol=1e-4)
        # The arch describes the model.
        again = MODELS.build(dict(type='mmmeta.MetaFormer', arch=asdict(model.arch)))
        again.load_state_dict(trained.state_dict())
        with torch.no_grad():
            for a, b in zip(again.eval()(images), outputs[mode], strict=True):
                assert a.equal(b)
    for a, b in (('global', 'window'), ('global', 'hybrid'), ('window', 'hybrid')):
        for i in (0, 1):
            torch.testing.assert_close(outputs[a][i], outputs[b][i])
        for i in (2, 3):
            assert (outputs[a][i] - outputs[b][i]).abs().max() > 1e-2


def local_block(x: Tensor, block: nn.Module, train: bool) -> Tensor:
    """A block of UniFormer's first stages, built from PyTorch's functions."""

    def conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
        return F.conv2d(
            x, layer.weight, layer.bias, 1, layer.padding, groups=layer.groups
        )

    def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        if train:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = layer.running_mean, layer.running_var
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * layer.weight[:, None, None] + layer.bias[:, None, None]

    mixer, mlp = block.token_mixer, block.mlp
    x = x + conv(x, block.pos_embed)
    y = conv(conv(norm(x, block.norm1), mixer.pwconv1), mixer.dwconv)
    x = x + conv(y, mixer.pwconv2)
    return x + conv(F.gelu(conv(norm(x, block.norm2), mlp.fc1)), mlp.fc2)


@pytest.mark.parametrize('norm_eval', [False, True])
def test_batch_statistics(norm_eval):
    model = uniformer(norm_eval=norm_eval).train()
    block = model.stages[1].blocks[0]
    for layer in (block.norm1, block.norm2):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    x = torch.randn(4, 64, 6, 5)
    expected = local_block(x, block, train=not norm_eval)
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)

    mean = block.norm1.running_mean.clone()
    images = torch.randn(4, 3, 64, 64)
    together = model(images)
    alone = [model(image[None]) for image in images]
    assert mean.equal(block.norm1.running_mean) == norm_eval
    for i, out in enumerate(together):
        single = torch.cat([outs[i] for outs in alone])
        difference = (out - single).abs().max()
        assert (difference < 1e-3) if norm_eval else (difference > 1e-2)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(attention='local'), "unknown attention 'local'; choose from .*hybrid"),
        (dict(attention='window', window_size=0), 'window_size must be positive'),
        (
            dict(attention='window', arch=dict(ARCH, token_mixer=dict(type='Pooling'))),
            "needs dict\\(type='Attention', ...\\) as the third stage's .*Pooling",
        ),
    ],
)
def test_wrong_attention_names_the_choices(kwargs, message):
    with pytest.raises(ValueError, match=message):
        uniformer(**kwargs)
