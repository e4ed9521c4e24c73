"""Speed and memory of mmmeta compared with other implementations of the same models.

    python -m benchmarks --quick          (from the project's root; docs/benchmark.md)

`cases` defines what is measured, `models` builds it, `worker` is a process that runs it
using `measure`, `run` controls the workers so that only one computes at a time, and
`report` and `plot` show the results. `attention_memory` and `mmcv_ops` are separate
benchmarks.
"""
