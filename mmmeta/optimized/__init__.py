"""`mmmeta.optimize`: models for inference with folded weights."""
