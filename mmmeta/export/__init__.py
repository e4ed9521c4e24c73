"""Whole models as one file: from the image's bytes to detections, maps or classes."""
