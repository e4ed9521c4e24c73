"""What `mmmeta.optimize` returns: models for inference, whose weights are folded."""
