"""Speed and memory of mmmeta beside other implementations of the same models.

    python -m benchmarks --quick          (from the project's root; docs/benchmark.md)

`cases` says what is measured, `models` builds it, `worker` is a process that runs it
and `measure` what it measures with, `run` drives the workers so that one computes at a
time, `report` and `plot` show the results. `attention_memory` and `mmcv_ops` measure
one thing each, and are run by themselves.
"""
