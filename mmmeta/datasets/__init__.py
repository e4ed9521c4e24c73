"""The embedded data set: scenes of shapes, made in seconds."""

from mmmeta.datasets._scene import CLASSES, Scene, make_scene
from mmmeta.datasets.shapes import describe_shapes, make_shapes

__all__ = ['CLASSES', 'Scene', 'describe_shapes', 'make_scene', 'make_shapes']
