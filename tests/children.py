"""Processes that tests start: everything heavy is imported in them already, and they have no threads of ours."""

import multiprocessing

children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(
    ["cpvt.cli", "cpvt.training", "cpvt.evaluation.sweep", "benchmarks.rehearsal", "torch.distributed.fsdp"]
)
