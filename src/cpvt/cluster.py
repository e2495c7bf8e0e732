"""Independent tasks spread over the machines of a Ray cluster; what they tell comes back to the one that asked."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")
Tell = Callable[..., None]

LOCAL = "ray"  # a cluster that runs already where there is one, else one of this machine alone
PATIENCE = 0.2  # seconds between looks at what tasks told
FAREWELL = 30  # seconds that tasks have to stop in


def run_on_cluster(
    work: Callable[[Task, Tell], None], tasks: Sequence[Task], address: str, folder: Path, cpus: int, gpu: bool | None,
    hear: Callable[..., Any],
) -> None:  # fmt: skip
    """Call `work(task, tell)` for every task somewhere in a cluster, as many at a time as have room; hear what they tell.

    address: 'ray', 'auto', 'HOST:PORT' or 'ray://HOST:PORT'. cpus: of each task, and its threads. gpu: whether each task
    takes a GPU too; None: where the cluster has any. folder: what tasks write goes below it, so all machines must share
    it, as they must the working folder of this process, in which tasks work, too. cpvt must be installed on all.
    The first error of a task, or of `hear`, stops all others and is raised here. Raises ValueError where Ray is missing,
    the address is none, folders are not shared or no machine is large enough; ConnectionError where no cluster answers;
    ChildProcessError where a process or a machine died. A connection of the caller's own is used and left open.
    """
    check_address(address)
    ray = import_ray()
    with _connected(ray, address):
        gpus = _gpus(ray, gpu)
        _check_shared(ray, folder, _large_enough(ray, cpus, gpus))
        queue = importlib.import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0})
        remote = ray.remote(_work).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        waiting = [remote.remote(work, task, queue, os.getcwd(), cpus) for task in tasks]
        try:
            while waiting:
                done, waiting = ray.wait(waiting, timeout=PATIENCE)
                count = queue.qsize()
                for message in queue.get_nowait_batch(count) if count else ():
                    hear(*message)
                for each in done:
                    _finish(ray, each)
        finally:
            for each in waiting:
                ray.cancel(each)
            if waiting:
                ray.wait(waiting, num_returns=len(waiting), timeout=FAREWELL)
            queue.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError for what is no address of a cluster."""
    if address not in (LOCAL, "auto") and ":" not in address:
        raise ValueError(f"cluster must be 'ray', 'auto', HOST:PORT or ray://HOST:PORT; got '{address}'")


def import_ray() -> Any:
    """The package, which is optional; ValueError where it is missing."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError("a cluster needs the package ray: pip install 'cpvt[cluster]'") from error


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    ray.init(
        address=None if address == LOCAL else address, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def _gpus(ray: Any, gpu: bool | None) -> int:
    return int(bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu)


def _large_enough(ray: Any, cpus: int, gpus: int) -> list[dict[str, Any]]:
    """The machines on which a task has room; ValueError where there are none, as it would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus
             and node["Resources"].get("GPU", 0) >= gpus]  # fmt: skip
    if not nodes:
        largest = ", ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in machines)
        raise ValueError(
            f"each training asks for {cpus} CPUs and {gpus} GPUs, which no machine of the cluster has ({largest}): "
            "raise --parallel, or choose another --device"
        )
    return nodes


def _check_shared(ray: Any, folder: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError unless these machines see a file that is new in `folder`, and the working folder."""
    near = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=".shared-") as file:
        asked = {
            node["NodeManagerHostname"]: ray.remote(_sees)
            .options(num_cpus=0, scheduling_strategy=near(node["NodeID"], soft=False))
            .remote(file.name, os.getcwd())
            for node in nodes
        }
        blind = sorted(name for name, seen in asked.items() if not ray.get(seen))
    if blind:
        raise ValueError(
            f"all machines of the cluster must share the folders '{folder.absolute()}' and '{os.getcwd()}'; "
            f"{', '.join(blind)} did not find them. Work in a shared folder, with --out below it"
        )


def _sees(file: str, here: str) -> bool:
    return os.path.exists(file) and os.path.isdir(here)


def _work(work: Callable[[Task, Tell], None], task: Task, queue: Any, here: str, threads: int) -> None:
    os.chdir(here)
    import torch

    torch.set_num_threads(threads)
    work(task, lambda *message: queue.put(message))


def _finish(ray: Any, done: Any) -> None:
    """Raise what a task raised."""
    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ChildProcessError(
            "a process or a machine of the cluster died (most often for want of memory); what was finished is kept. "
            "Run the same command again, with fewer at once (--parallel)"
        ) from error
