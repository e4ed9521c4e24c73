"""Speed and memory of mmmeta beside other implementations of the same models.

`cases` says what is measured, `models` builds it, `worker` is a process that runs it,
`run` drives the workers so that one computes at a time, `report` shows the results.
"""
