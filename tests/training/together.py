"""Run by torchrun in the tests: a training in this process of several, with a look at how it is spread."""

import json
import os
import sys

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from cpvt import processes
from cpvt.cli import main
from cpvt.training import run as running

build = running.Run.__init__


def build_and_look(self, *arguments):
    build(self, *arguments)
    assert dist.get_world_size() == processes.count() == int(os.environ["WORLD_SIZE"])
    assert dist.get_backend() == "gloo"
    kinds = {type(parameter).__name__ for parameter in self.module.parameters()}
    spread = [parameter for parameter in self.module.parameters() if isinstance(parameter, DTensor)]
    local = sum(parameter.to_local().numel() for parameter in spread)
    told = {"wrapper": type(self.model).__name__, "kinds": sorted(kinds), "local": local,
            "all": sum(parameter.numel() for parameter in self.module.parameters())}  # fmt: skip
    print("LOOK " + json.dumps(told), flush=True)


running.Run.__init__ = build_and_look
main(sys.argv[1:])
