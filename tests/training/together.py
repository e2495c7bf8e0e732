"""Processes that go through one command of the command line, alone or together, and tell how a model is spread."""

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from cpvt.cli import main
from cpvt.runtime import distributed
from cpvt.training.trainer import Trainer
from tests.children import children


def start(folder, command, count=2, pause=0.0, **env):
    """Start processes that run a command; what each says goes to a file in the folder. Returns the processes.

    pause: seconds that each rests before every step.
    """
    meeting = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # at a port that is free
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(meeting.port),
             "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
    started = []
    for number in range(count):
        place = {**world, "RANK": str(number), "LOCAL_RANK": str(number)} if count > 1 else {}
        child = children.Process(target=work, args=(command, {**env, **place}, pause, folder / f"said-{number}.txt"))
        child.start()
        child.meeting = meeting  # stays open as long as the process is known
        started.append(child)
    return started


def finish(started, folder, code=0):
    """Wait until every process has ended with an exit code; returns what the first of them said."""
    for child in started:
        child.join(timeout=300)
        child.kill()  # one that still waits for the other
        child.join()
    said = [(folder / f"said-{number}.txt").read_text() for number in range(len(started))]
    assert [child.exitcode for child in started] == [code] * len(started), "\n".join(said)[-5000:]
    return said[0]


def work(command, env, pause, said):
    """In a process of its own: run a command."""
    os.environ.update(env)
    torch.set_num_threads(1)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    build, learn = Trainer.__init__, Trainer.train_step

    def build_and_look(self, *given):
        build(self, *given)
        look(self)

    def rest_and_learn(self, *given):
        time.sleep(pause)
        learn(self, *given)

    Trainer.__init__, Trainer.train_step = build_and_look, rest_and_learn
    main(command)
    sys.stdout.flush()


def look(trainer):
    """Say how a model is spread over the processes."""
    assert distributed.world_size() == int(os.environ.get("WORLD_SIZE", "1"))
    assert not distributed.is_distributed() or dist.get_backend() == "gloo"
    kinds = {type(parameter).__name__ for parameter in trainer.module.parameters()}
    spread = [parameter for parameter in trainer.module.parameters() if isinstance(parameter, DTensor)]
    told = {"wrapper": type(trainer.model).__name__, "kinds": sorted(kinds),
            "local": sum(parameter.to_local().numel() for parameter in spread),
            "all": sum(parameter.numel() for parameter in trainer.module.parameters())}  # fmt: skip
    print("LOOK " + json.dumps(told), flush=True)
