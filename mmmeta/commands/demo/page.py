"""The page: its components and event handlers."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal

import gradio as gr
import numpy as np
from PIL import Image

from mmmeta.commands.demo import drawing
from mmmeta.commands.demo.engine import Engine, Prediction
from mmmeta.commands.demo.found import Model, make_model
from mmmeta.errors import UserError, one_line
from mmmeta.hosts.images import read_image
from mmmeta.hosts.libraries import TASKS
from mmmeta.runtime import Probabilities

# Pictures are looked for every hour, and deleted when they are a day old.
KEPT = 3600, 86_400  # seconds
THRESHOLD = 0.5
# What to run if no model was found.
HINTS = {
    'detection': 'run <code>make demo</code>, which trains one in minutes',
    'segmentation': (
        'train one in minutes: <code>python tools/train.py configs/segmentation/'
        'semantic_fpn_poolformer_s12_shapes.py</code>'
    ),
    'classification': (
        'start the page with a config and a checkpoint: <code>mmmeta demo configs/'
        'classification/poolformer_s12.py mmmeta://poolformer_s12.sail_in1k</code>'
    ),
}
CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
:focus-visible { outline: 2px solid var(--color-accent) !important; }
.note { margin: 0; overflow-wrap: anywhere; }
.note.error { color: var(--error-text-color) !important; padding-left: 8px;
  border-left: 3px solid var(--error-border-color); }
:is(#hint, #status, #summary):not(:has(p, ul, strong)) { display: none; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px;
  margin: 0; padding: 0; }
.swatch { display: inline-block; width: 1em; height: 1em; margin-right: 6px;
  border: 1px solid var(--border-color-primary); vertical-align: -2px; }
"""


def note(text: str, error: bool = False) -> str:
    """Return a line of HTML; screen readers announce errors immediately."""
    kind, role = (' error', 'alert') if error else ('', 'status')
    return f'<p class="note{kind}" role="{role}">{text}</p>'


def shown(yes: bool) -> Literal[True, 'hidden']:
    """Return `visible` for Gradio; components with False may not reappear."""
    return True if yes else 'hidden'


def open_image(path: str | None) -> np.ndarray:
    """Return an image, upright, uint8 (H, W, 3), RGB.

    Raises:
        UserError: There is none, or the file is not an image.
    """
    if path is None:
        raise UserError('choose an image first: drop one, or select an example')
    try:
        return read_image(path)[..., ::-1]
    except ValueError as error:
        raise UserError(
            f'this file cannot be read as an image ({error}); expected an undamaged '
            'JPEG, PNG, WebP or similar file'
        ) from error


def explain(error: Exception) -> str:
    """Return an error as one line, for the page and the terminal."""
    text = one_line(error, 600)
    if isinstance(error, MemoryError) or 'memory' in text.lower():
        text = f'not enough memory; try a smaller image or another --device ({text})'
    print(f'mmmeta demo: {text}', file=sys.stderr)
    return note(escape(text), error=True)


class Page:
    """The page's components and their event handlers.

    Args:
        engine: Runs the models.
        given: The models from the command line, offered first.
        find: Called when the page is opened; returns the models to offer.
        examples: Paths of images to choose from.
        may_add: Whether the page accepts paths of configs, which are programs.
    """

    def __init__(
        self,
        engine: Engine,
        given: Sequence[Model],
        find: Callable[[], list[Model]],
        examples: Sequence[str],
        may_add: bool,
    ) -> None:
        self.engine = engine
        self.find = find
        self.examples = examples
        self.may_add = may_add
        self.given = list(given)
        self.models: list[Model] = []
        self.blocks = self._build()

    def _build(self) -> gr.Blocks:
        with gr.Blocks(
            title='mmmeta demo', analytics_enabled=False, delete_cache=KEPT
        ) as blocks:
            gr.Markdown(
                '# mmmeta demo\nRun a trained model on an image. Everything stays on '
                'this machine.'
            )
            with gr.Row():
                with gr.Column(min_width=280):
                    self._build_inputs()
                with gr.Column(min_width=280):
                    self._build_results()
            self._connect(blocks)
        return blocks

    def _build_inputs(self) -> None:
        self.task = gr.Radio(list(TASKS), label='Task', elem_id='task')
        self.model = gr.Dropdown([], label='Model', elem_id='model', filterable=False)
        self.hint = gr.HTML(elem_id='hint', padding=False)
        if self.may_add:
            with gr.Accordion('Another model', open=False):
                self.config = gr.Textbox(
                    label='Config or exported file',
                    placeholder='configs/...py, or model.onnx',
                )
                self.checkpoint = gr.Textbox(
                    label='Checkpoint',
                    placeholder='a file, or mmmeta://NAME',
                )
                self.add = gr.Button('Add', elem_id='add')
        self.image = gr.Image(
            type='filepath', label='Image', sources=['upload', 'clipboard'], height=320
        )
        gr.Examples([[path] for path in self.examples], self.image, label='Examples')
        # Enabled by `open`, with the models.
        self.button = gr.Button(
            'Run', variant='primary', interactive=False, elem_id='run'
        )

    def _build_results(self) -> None:
        self.status = gr.HTML(elem_id='status', padding=False)
        self.picture = gr.Image(
            label='Found',
            interactive=False,
            format='png',
            elem_id='picture',
            buttons=['download', 'fullscreen'],
        )
        self.top = gr.Label(
            label='Most likely', num_top_classes=5, visible='hidden', elem_id='top'
        )
        self.summary = gr.HTML(elem_id='summary', padding=False)
        self.threshold = gr.Slider(
            0,
            1,
            THRESHOLD,
            step=0.01,
            label='Score above',
            elem_id='threshold',
            buttons=[],
        )
        self.prediction = gr.State()

    def _connect(self, blocks: gr.Blocks) -> None:
        # No `queue`: Gradio's queue shares one stream of results among all events, and
        # loses results of events that arrive while the stream is closing.
        results = [self.status, self.picture, self.top, self.summary, self.prediction]
        cleared = [*results, self.threshold]
        # Models and cleared results in one answer: `model.change` would clear later,
        # perhaps what a click on Run has shown in between.
        offered = [self.model, self.hint, self.button, *cleared]
        blocks.load(self.open, None, [self.task, *offered], queue=False)
        self.task.input(self.choose_task, self.task, offered, queue=False)
        gr.on(
            [self.model.input, self.image.change],
            self.clear,
            self.model,
            cleared,
            show_progress='hidden',
            queue=False,
        )
        self.button.click(
            self.run,
            [self.model, self.image, self.threshold],
            results,
            show_progress_on=[self.picture, self.top],
            preprocess=False,  # it would raise for broken files, before `run`
            queue=False,
        )
        self.threshold.change(
            self.redraw,
            [self.prediction, self.threshold],
            [self.picture, self.summary],
            show_progress='hidden',
            trigger_mode='always_last',
            queue=False,
        )
        if self.may_add:
            self.add.click(
                self.add_model,
                [self.config, self.checkpoint],
                [self.task, *offered],
                queue=False,
            )

    def open(self) -> list:
        """Update the models on offer; more may have been trained."""
        self.models = list(dict.fromkeys([*self.given, *self.find()]))
        task = self.models[0].task if self.models else 'detection'
        return [gr.update(value=task), *self.choose_task(task)]

    def choose_task(self, task: str, chosen: Model | None = None) -> list:
        """Offer the models of a task, or show how to get one; clear the results."""
        models = [model for model in self.models if model.task == task]
        value = chosen or (models[0] if models else None)
        return [
            gr.update(
                choices=[(model.label, model.key) for model in models],
                value=value and value.key,
                visible=shown(bool(models)),
            ),
            ''
            if models
            else note(f'No trained model for {task} found: {HINTS[task]}.'),
            gr.update(interactive=bool(models)),
            *self._cleared(task),
        ]

    def _chosen(self, key: str | None) -> Model:
        for model in self.models:
            if model.key == key:
                return model
        raise UserError('choose a model first')

    def add_model(self, config: str, checkpoint: str) -> list:
        """Offer the model whose paths were typed into the page."""
        try:
            model = make_model(config.strip(), checkpoint.strip())
        except Exception as error:
            status = explain(error)
            return [*[gr.skip()] * 4, status, *[gr.skip()] * 5]
        if model not in self.models:
            self.given.append(model)
            self.models.append(model)
        return [gr.update(value=model.task), *self.choose_task(model.task, model)]

    def clear(self, key: str | None) -> list:
        """Clear the results of the previous model or image."""
        return self._cleared(
            next((m.task for m in self.models if m.key == key), 'detection')
        )

    def _cleared(self, task: str) -> list:
        classifies = task == 'classification'
        return [
            '',
            gr.update(value=None, visible=shown(not classifies)),
            gr.update(value=None, visible=shown(classifies)),
            '',
            None,
            gr.update(visible=shown(task == 'detection')),
        ]

    def run(self, key: str | None, file: dict | None, threshold: float) -> list:
        """Run the model, and show its predictions or an error."""
        try:
            image = open_image(file['path'] if file else None)
            prediction = self.engine.predict(self._chosen(key), image)
            status = note(drawing.timing(prediction))
            if isinstance(prediction.result, Probabilities):
                top = drawing.scores(prediction, prediction.result)
                return [status, None, top, '', None]
            picture, summary = self.redraw(prediction, threshold)
            return [status, picture, None, summary, prediction]
        except Exception as error:  # the page must show any error
            return [explain(error), None, None, '', None]

    def redraw(self, prediction: Prediction | None, threshold: float) -> list:
        """Redraw a prediction without running the model."""
        if prediction is None:
            return [gr.skip(), gr.skip()]
        summary = drawing.describe(prediction, threshold)
        try:
            return [self._saved(drawing.draw(prediction, threshold)), summary]
        except Exception as error:  # the prediction is described even so
            return [None, f'{summary}{explain(error)}']

    def _saved(self, picture: np.ndarray) -> str:
        """Write a picture to a file of its own, where Gradio serves it; return it.

        Gradio itself names a file by its content, and writes it again while others
        may be reading it.
        """
        folder = self.picture.GRADIO_CACHE
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            suffix='.png', dir=folder, delete=False
        ) as file:
            Image.fromarray(picture).save(file, 'png')
        self.picture.temp_files.add(file.name)  # so that Gradio deletes it in time
        return file.name
