"""The members of the family as plain data: one row each, without PyTorch."""
