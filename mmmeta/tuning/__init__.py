"""Fine-tuning on a user's own data: from a data set to a config, and its training.

`plan` decides, `files` writes the annotations that the config names, `text` writes the
config, `train` runs it.
"""
