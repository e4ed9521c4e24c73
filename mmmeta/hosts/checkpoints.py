"""Checkpoints of a run: load every key, or report what does not fit.

MMEngine loads what fits and logs the rest among hundreds of lines. Here, testing and
resuming require all keys; training may start with less and reports it, but stops if a
whole part of the model would unexpectedly start from random weights.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook

from mmmeta.errors import InvalidValueError, one_line
from mmmeta.weights.errors import CheckpointError, first_few
from mmmeta.weights.locate import shown
from mmmeta.weights.reading import unwrap

if TYPE_CHECKING:
    from torch import nn

ENOUGH = 0.5  # of a part's values; with fewer it counts as missing
BATCH_SIZE = 'batch_size'  # its key in a checkpoint's meta
# Keys that a checkpoint may lack, or have besides weights: suffixes and roots.
COUNTERS = 'num_batches_tracked'
NO_WEIGHTS = ('data_preprocessor',)
OTHERS = (*NO_WEIGHTS, 'teacher', 'teacher_model', 'ema', 'ema_model', 'model_ema')
_MISSHAPEN = re.compile(
    r'size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from '
    r'checkpoint, the shape in current model is torch\.Size\((.*?)\)\.'
)


@dataclass
class Misfit:
    """The differences between a checkpoint and a model.

    Attributes:
        missing: Names that only the model has.
        unexpected: Names that only the checkpoint has.
        wrong: By name, why a value was not loaded.
        classes: Names in `wrong` that differ only in their first dimension, like
            layers for another number of classes.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        parts = [
            f'{len(keys)} {what}: {first_few(keys, 3)}'
            for what, keys in (
                ('missing', self.missing),
                ('unexpected', self.unexpected),
                ('wrong', list(self.wrong.values())),
            )
            if keys
        ]
        return '; '.join(parts)


@contextmanager
def gathered(module: 'nn.Module', lenient: Collection[str] = ()) -> Iterator[Misfit]:
    """Collect mismatches while MMEngine loads a module, instead of logging them.

    Args:
        module: The module that is loaded, without wrappers.
        lenient: Parts whose backbone may keep its values; ours would raise an error.
    """
    found = Misfit()
    errors: list[str] | None = None  # PyTorch's, while this module is loaded

    def begin(
        _: 'nn.Module', state: Any, prefix: str, local: Any, strict: bool, *lists: Any
    ) -> None:
        nonlocal errors
        if not prefix:
            errors = lists[-1]
            _relax(module, getattr(state, '_metadata', None), lenient)

    def end(_: 'nn.Module', keys: Any) -> None:
        nonlocal errors
        if errors is not None:
            _collect(found, module, keys, errors)
            for reported in (keys.missing_keys, keys.unexpected_keys, errors):
                reported.clear()
            errors = None

    handles = (
        module.register_load_state_dict_pre_hook(begin),
        module.register_load_state_dict_post_hook(end),
    )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _relax(module: 'nn.Module', metadata: Any, parts: Collection[str]) -> None:
    from mmmeta.weights.loading import Backbone, be_lenient

    for name, inner in module.named_modules():
        if isinstance(inner, Backbone) and name.split('.')[0] in parts:
            be_lenient(metadata, name)


def _collect(
    found: Misfit, module: 'nn.Module', keys: Any, errors: Collection[str]
) -> None:
    """Extract the relevant entries of PyTorch's lists."""
    for key in keys.missing_keys:
        if not key.endswith(COUNTERS) and key.split('.')[0] not in NO_WEIGHTS:
            found.missing.append(key)
    buffers = {name for name, _ in module.named_buffers()}  # including unsaved ones
    for key in keys.unexpected_keys:
        if not (
            key.endswith(COUNTERS) or key in buffers or key.split('.')[0] in OTHERS
        ):
            found.unexpected.append(key)
    for error in errors:
        shapes = _MISSHAPEN.search(error)
        if shapes is None:
            found.wrong[error] = error
            continue
        name, there, here = shapes.groups()
        there, here = (sizes.strip('[]') for sizes in (there, here))
        found.wrong[name] = f'{name} has shape ({there}), expected ({here})'
        theirs, own = (sizes.split(', ') for sizes in (there, here))
        if len(theirs) == len(own) and theirs[1:] == own[1:]:
            found.classes.add(name)
    # A norm follows inner layers, whose outputs are not classes.
    ranks = {key: value.dim() for key, value in module.named_parameters()}
    for name in list(found.classes):
        weight = f'{name.rpartition(".")[0]}.weight'
        if max(ranks.get(name, 0), ranks.get(weight, 0)) < 2:
            found.classes.remove(name)


# -- testing and resuming ----------------------------------------------------------


def _want_all(found: Misfit, name: str, doing: str) -> None:
    """Raise CheckpointError unless everything fits."""
    if text := str(found):
        raise CheckpointError(
            f"{name} does not fit the config's model, and nothing was {doing}. {text}. "
            "Pass a checkpoint of this config's model, or the config that this "
            'checkpoint was trained with'
        )


def _want_run(content: Any, name: str) -> None:
    """Raise CheckpointError unless a run can be resumed from a checkpoint."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    lacks = [
        key
        for key, there in (
            ('meta.epoch', 'epoch' in (meta or {})),
            ('meta.iter', 'iter' in (meta or {})),
            ('message_hub', 'message_hub' in content),
        )
        if not there
    ]
    if lacks:
        raise CheckpointError(
            f'{name} cannot be resumed: it has no {", ".join(lacks)}, like files that '
            'contain only weights. To start training with its weights, use load_from'
        )


# -- training ----------------------------------------------------------------------


def _parts(module: 'nn.Module', name: str) -> dict[str, list[str]]:
    """Return the names of a module's parameters by part of the model.

    Args:
        module: The model, or a module in it.
        name: The module's name in the model, or '' for the model itself, whose
            children are its parts.
    """
    parts: dict[str, list[str]] = {}
    for key, _ in module.named_parameters():
        part = name or (key.split('.')[0] if '.' in key else 'the model itself')
        parts.setdefault(part, []).append(key)
    return parts


def _want_parts(
    module: 'nn.Module', name: str, found: Misfit, allowed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the parts that would be random, and lines about all random parameters."""
    numbers = {key: value.numel() for key, value in module.named_parameters()}
    absent = {*found.missing, *found.wrong}
    stops, lines = [], []
    for part, keys in _parts(module, name).items():
        out = [key for key in keys if key in absent]
        if not out:
            continue
        told = [found.wrong.get(key, key) for key in out]
        lines.append(f'{part}: {len(out)} of {len(keys)} ({first_few(told, 2)})')
        counted = [key for key in keys if key not in found.classes]
        loaded = sum(numbers[key] for key in counted if key not in absent)
        little = loaded < ENOUGH * sum(numbers[key] for key in counted)
        if counted and little and part.split('.')[0] not in allowed:
            stops.append(part)
    return stops, lines


def _begin_with(
    module: 'nn.Module',
    name: str,
    found: Misfit,
    source: str,
    allowed: Collection[str],
    say: Callable[[str], None],
) -> None:
    """Log what stays random; raise CheckpointError if that is a whole part.

    Args:
        module: The module that was loaded.
        name: Its name in the model.
        found: The mismatches.
        source: Description of the checkpoint.
        allowed: Parts that may stay random.
        say: Writes a line of the log.
    """
    stops, lines = _want_parts(module, name, found, allowed)
    if stops:
        tops = list(dict.fromkeys(part.split('.')[0] for part in stops))
        listed = [line for line in lines if line.split(':')[0] in stops]
        raise CheckpointError(
            f"{source} does not fit the config's model, of which these parts would "
            f'stay random: {"; ".join(listed)}. Pass another checkpoint or, to train '
            f'them from random weights, --allow-missing {" ".join(tops)} (in the '
            f'config: allow_missing = {tops})'
        )
    if lines:
        say('\n  '.join([f'not in {source}, kept as initialized:', *lines]))
    roots = dict.fromkeys(key.split('.')[0] for key in found.unexpected)
    if roots:
        say(
            f'not used from {source}: {len(found.unexpected)} tensors of '
            f'{first_few(list(roots), 8)}'
        )


# -- runners -----------------------------------------------------------------------


def watch(runner: Any, testing: bool, allow_missing: Collection[str] = ()) -> None:
    """Make a runner report checkpoints that do not fit.

    Args:
        runner: MMEngine's, before it loads anything.
        testing: Whether it will be tested rather than trained.
        allow_missing: Parts of the model that training may start from random weights:
            top-level children that have parameters.

    What it loads later raises CheckpointError where it does not fit, and
    InvalidValueError where the model has no such part.
    """
    load, resume = runner.load_checkpoint, runner.resume
    say = runner.logger.warning
    resuming = False

    def load_checkpoint(filename: str, *args: Any, **kwargs: Any) -> Any:
        model, name = innermost(runner.model), shown(filename)
        lenient = () if testing or resuming else allow_missing
        _check_parts(model, lenient)
        with gathered(model, lenient) as found, _named(name):
            content = load(filename, *args, **kwargs)
        if testing or resuming:
            _want_all(found, name, 'tested' if testing else 'resumed')
        else:
            _begin_with(model, '', found, f'load_from, {name},', lenient, say)
        if resuming:
            _want_run(content, name)
            if 'optimizer' not in content:
                say(f'{name} has no state of the optimizer, which starts from scratch')
            then, now = content['meta'].get(BATCH_SIZE), _batch_size(runner)
            if then and now and then != now:
                say(
                    f'{name} is of a run with batch size {then} in all processes; this '
                    f'one has {now}. The learning rates, and schedules that count '
                    'iterations, continue as they were, also with --auto-scale-lr'
                )
        return content

    def resume_run(filename: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal resuming
        resuming = True
        try:
            return resume(filename, *args, **kwargs)
        except ValueError as error:
            if 'parameter group' not in str(error):
                raise
            raise CheckpointError(
                f'{shown(filename)} cannot be resumed: its optimizer is not that of '
                f'the config ({error}). Resume with its own config, or use it as '
                'load_from, which only loads weights'
            ) from error
        finally:
            resuming = False

    runner.load_checkpoint, runner.resume = load_checkpoint, resume_run
    runner.register_hook(_Unwrap(), priority='VERY_HIGH')
    if not testing:
        runner.register_hook(_NoteBatchSize())
    if not testing and hasattr(runner.model, 'init_weights'):
        _watch_init(innermost(runner.model), allow_missing, say)


class _Unwrap(Hook):
    """Puts the weights of a checkpoint under `state_dict`, where MMEngine looks."""

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
            state = unwrap(checkpoint, 'the file')
            checkpoint.clear()
            checkpoint['state_dict'] = state


class _NoteBatchSize(Hook):
    """Saves the batch size, which is not that of the config with several processes."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if size := _batch_size(runner):
            checkpoint['meta'][BATCH_SIZE] = size


def _batch_size(runner: Any) -> int | None:
    """Return the images of an iteration in all processes, if the loader tells."""
    loader = runner.train_dataloader
    size = getattr(loader, 'batch_size', None)  # None with a batch sampler
    size = size or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
    return size * runner.world_size if isinstance(size, int) else None


def _check_parts(model: 'nn.Module', names: Collection[str]) -> None:
    parts = list(_parts(model, ''))
    if unknown := [name for name in names if name not in parts]:
        raise InvalidValueError(
            f'allow_missing: the model has no part {first_few(unknown)}; choose from '
            f'{first_few(parts, 12)}'
        )


def innermost(model: 'nn.Module') -> 'nn.Module':
    """Return a model without the wrappers that loading looks through."""
    from mmengine.model import BaseTTAModel, is_model_wrapper

    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the file's name to errors; convert PyTorch's errors to ours."""
    try:
        yield
    except CheckpointError as error:
        if name in str(error):
            raise
        raise CheckpointError(f'{name}: {error}') from error
    except RuntimeError as error:
        if not str(error).startswith('Error(s) in loading state_dict'):
            raise
        raise CheckpointError(
            f"{name} does not fit the config's model: {one_line(error)}"
        ) from error


def _watch_init(
    model: 'nn.Module', allowed: Collection[str], say: Callable[[str], None]
) -> None:
    """Also make an `init_cfg` of type 'Pretrained' report what does not fit."""
    from mmmeta.weights.loading import Backbone, pretrained_in

    root: Any = model  # MMEngine's, whose method this replaces
    init_weights = root.init_weights

    def checked() -> None:
        with ExitStack() as stack:
            seen = []
            for name, module in model.named_modules():
                cfgs = pretrained_in(getattr(module, 'init_cfg', None))
                if not cfgs or isinstance(module, Backbone):
                    continue
                file = shown(str(cfgs[-1].get('checkpoint')))
                if not name:
                    stack.enter_context(_named(file))
                found = stack.enter_context(gathered(module, allowed))
                source = f'{file}, of the init_cfg of {name or "the model"},'
                seen.append((module, name, found, source))
            init_weights()
        for module, name, found, source in seen:
            _begin_with(module, name, found, source, allowed, say)

    root.init_weights = checked
