"""Fast paths, each beside the plain modules that it replaces."""
