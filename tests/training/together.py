"""Run a command line in one or several processes, and report how the model is sharded."""

import errno
import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import cpvt
from cpvt.cli import main, parse
from cpvt.runtime import distributed
from cpvt.training import resume, train
from cpvt.training.trainer import Trainer
from tests.children import children


def start(folder, command, count=2, pause=0.0, target=None, **env):
    """Start processes that run a command, with their output in files of the folder. Returns the processes.

    pause: seconds to sleep before every step. target: what runs it, by default `work`.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # on a free port
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port),
             "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
    started = []
    for rank in range(count):
        ranks = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        arguments = (command, {**env, **ranks}, pause, folder / f"output-{rank}.txt")
        child = children.Process(target=target or work, args=arguments)
        child.start()
        child.store = store  # open as long as the process object exists
        started.append(child)
    return started


def finish(started, folder, code=0):
    """Wait for the processes and check their exit code; returns the output of the first."""
    for child in started:
        child.join(timeout=300)
        child.kill()  # where it still waits for another
        child.join()
    output = [(folder / f"output-{rank}.txt").read_text() for rank in range(len(started))]
    assert [child.exitcode for child in started] == [code] * len(started), "\n".join(output)[-5000:]
    return output[0]


def sweep_with_failures_in_one_process(data, env, pause, output):
    """Sweep a model that fails at size 8 in the first process alone; the target of a process.

    FAILURE of the environment says how: nan, or refused.
    """
    write_to(output, env)
    distributed.join("cpu")

    def model(images):
        fails = distributed.rank() == 0 and images.shape[-1] == 8
        if fails and env["FAILURE"] == "refused":
            raise ValueError("8 pixels are too few")
        return images.mean((2, 3))[:, :2] * (float("nan") if fails else 1.0)

    for row in cpvt.sweep(model, data, [8, 16], img_size=16):
        print(row.refused, row.total, flush=True)


def train_into_a_full_disk(command, env, pause, output):
    """Train where a file cannot be written, and say how it ended; the target of a process.

    WRITER of the environment names the function of `resume` that writes it, WRITES how often it does before.
    """
    write_to(output, env)
    real, left = getattr(resume, env["WRITER"]), [int(env["WRITES"])]

    def write(*given):
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space")
        left[0] -= 1
        real(*given)

    setattr(resume, env["WRITER"], write)
    try:
        train(parse(command))
    except OSError as error:
        print(error, flush=True)


def write_to(output, env):
    """Have this process, with these variables, write to a file."""
    os.environ.update(env)
    torch.set_num_threads(1)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)


def work(command, env, pause, output):
    """Run a command; the target of a process."""
    write_to(output, env)
    build, train_step = Trainer.__init__, Trainer.train_step

    def build_and_report(self, *arguments):
        build(self, *arguments)
        report(self)

    def sleep_and_train(self, *arguments):
        time.sleep(pause)
        train_step(self, *arguments)

    Trainer.__init__, Trainer.train_step = build_and_report, sleep_and_train
    main(command)
    sys.stdout.flush()


def report(trainer):
    """Print how the model is sharded."""
    assert distributed.world_size() == int(os.environ.get("WORLD_SIZE", "1"))
    assert not distributed.is_distributed() or dist.get_backend() == "gloo"
    kinds = {type(parameter).__name__ for parameter in trainer.module.parameters()}
    sharded = [parameter for parameter in trainer.module.parameters() if isinstance(parameter, DTensor)]
    found = {"wrapper": type(trainer.model).__name__, "kinds": sorted(kinds),
            "local": sum(parameter.to_local().numel() for parameter in sharded),
            "all": sum(parameter.numel() for parameter in trainer.module.parameters())}  # fmt: skip
    print("SHARDING " + json.dumps(found), flush=True)
