"""The subcommands of `mmmeta`, one module each."""
