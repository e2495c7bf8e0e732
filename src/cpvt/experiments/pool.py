"""Run independent tasks in parallel: in processes of this machine, or on the machines of a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from cpvt.runtime.memory import keep_freed_memory
from cpvt.training.stopping import EXIT_CODE, StoppedError, ask_to_stop

logger = logging.getLogger(__name__)
Task = TypeVar("Task")
Send = Callable[..., None]  # a task calls send(kind, ...) to pass a message to the parent process

LOCAL = "ray"  # a running cluster, else one of this machine alone
POLL_SECONDS = 0.2  # how often messages are read
STOP_SECONDS = 30  # how long cancelled tasks may take to stop
DIED = (
    "a process or a machine died, most often because memory ran out; finished work is kept. "
    "Run the same command again, with fewer trainings at once (--parallel)"
)


class Pool(NamedTuple):
    """Where tasks run: `submit(work, task)` starts one; its messages arrive in `messages`."""

    submit: Callable[..., Future[None]]
    messages: Any  # a queue of the standard library or of Ray


def run_tasks(
    work: Callable[[Task, Send], None],
    tasks: Sequence[Task],
    pool: AbstractContextManager[Pool],
    on_message: Callable[..., Any],
) -> None:
    """Call `work(task, send)` for every task in a pool; `on_message` receives what tasks send, in this process.

    The first error of a task, or of `on_message`, stops all other tasks and is raised here. Raises ChildProcessError
    where a process or a machine dies, StoppedError on SIGTERM.
    """
    with pool as (submit, messages), _stopping_on_sigterm():
        waiting = {submit(work, task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            while not messages.empty():
                on_message(*messages.get())
            for future in done:
                future.result()


@contextmanager
def process_pool(processes: int, threads: int) -> Iterator[Pool]:
    """A pool of processes of this machine. `work` must be importable: a function of a module.

    threads: of each process. After an error, Ctrl-C or SIGTERM, or where this process was killed, running tasks stop
    when they next send a message; a training saves its state first. They leave Ctrl-C to this process, where a second
    one ends them at once.
    """
    context = multiprocessing.get_context("spawn")
    ignore, others = (signal.signal, (signal.SIGINT, signal.SIG_IGN)), set(multiprocessing.active_children())
    with context.Manager() as manager, ProcessPoolExecutor(processes, context, *ignore) as executor:
        messages, stopping = manager.Queue(), manager.Event()

        def submit(work: Callable[..., None], task: Any) -> Future[None]:
            with _ignoring_interrupts():  # a process may start here, and inherits that
                return executor.submit(_work, work, task, messages, threads, os.getcwd(), stopping)

        try:
            yield Pool(submit, messages)
        except BrokenProcessPool as error:
            raise ChildProcessError(DIED) from error
        except KeyboardInterrupt:
            logger.info("the processes finish their steps and save; press Ctrl-C again to quit at once")
            raise
        finally:
            stopping.set()
            try:
                executor.shutdown(cancel_futures=True)
            except KeyboardInterrupt:
                for child in set(multiprocessing.active_children()) - others:
                    child.kill()
                raise


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Raise StoppedError on SIGTERM while the block runs, in the main thread of this process."""

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:  # not in a process that was forked meanwhile
            raise StoppedError("stopped by SIGTERM; what is finished is kept. The same command resumes from there")

    owner, handled = os.getpid(), signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, None)
    if not handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C while the block runs, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ray_pool(address: str, folder: Path, cpus: int, gpu: bool | None) -> Iterator[Pool]:
    """The machines of a Ray cluster, as many tasks at a time as they have room for.

    address: 'ray', 'auto', 'HOST:PORT' or 'ray://HOST:PORT'. folder: tasks write below it. cpus: of each task, and its
    threads. gpu: whether each task takes a GPU; None: if the cluster has any.

    All machines must have cpvt installed. They must share `folder` and the working folder of this process: tasks run in
    it, and import modules from it. A connection that the caller opened is used and left open. Raises ValueError where
    Ray is missing, the address is invalid, folders are not shared or no machine is large enough; ConnectionError where
    no cluster answers.
    """
    check_address(address)
    ray = import_ray()
    with _connected(ray, address):
        gpus = int(bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu)
        _check_shared(ray, folder, _large_enough(ray, cpus, gpus))
        messages = importlib.import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0})
        remote = ray.remote(_work).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        running: list[Any] = []

        def submit(work: Callable[..., None], task: Any) -> Future[None]:
            running.append(remote.remote(work, task, messages, cpus, os.getcwd()))
            return running[-1].future()

        try:
            yield Pool(submit, messages)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise ChildProcessError(DIED) from error
        finally:
            _stop(ray, running)
            messages.shutdown()


def _stop(ray: Any, running: list[Any]) -> None:
    unfinished = ray.wait(running, num_returns=len(running), timeout=0)[1] if running else []
    for each in unfinished:
        ray.cancel(each)
    if unfinished:
        ray.wait(unfinished, num_returns=len(unfinished), timeout=STOP_SECONDS)


def _work(work: Callable[..., None], task: Any, messages: Any, threads: int, folder: str, stopping: Any = None) -> None:
    def send(*message: Any) -> None:
        if _is_orphaned():
            return ask_to_stop()
        if stopping is not None and stopping.is_set():
            ask_to_stop()
        if message:
            messages.put(message)

    send()
    os.chdir(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that encodings such as "mymodule:MyEncoding" are found
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        work(task, send)
    finally:
        if _is_orphaned():  # nobody reads what it would send, nor ends it
            os._exit(EXIT_CODE)


def _is_orphaned() -> bool:
    """Whether the process that started this one was killed; a worker of Ray has none."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_address(address: str) -> None:
    """Raise ValueError unless this is the address of a cluster."""
    if address not in (LOCAL, "auto") and ":" not in address:
        raise ValueError(f"cluster must be 'ray', 'auto', HOST:PORT or ray://HOST:PORT; got '{address}'")


def import_ray() -> Any:
    """Import Ray, an optional package; ValueError where it is missing."""
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


def _large_enough(ray: Any, cpus: int, gpus: int) -> list[dict[str, Any]]:
    """The machines on which a task has room. ValueError where there are none: the task would wait forever."""
    machines = [(node, node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
                for node in ray.nodes() if node["Alive"]]  # fmt: skip
    nodes = [node for node, has_cpus, has_gpus in machines if has_cpus >= cpus and has_gpus >= gpus]
    if not nodes:
        largest = ", ".join(f"{has_cpus:g} CPUs and {has_gpus:g} GPUs" for _, has_cpus, has_gpus in machines)
        raise ValueError(
            f"each training asks for {cpus} CPUs and {gpus} GPUs, which no machine of the cluster has ({largest}): "
            "raise --parallel, or choose another --device"
        )
    return nodes


def _check_shared(ray: Any, folder: Path, nodes: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError unless these machines see a new file in `folder`, and the working folder."""
    near = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=".shared-") as file:
        answers = {
            node["NodeManagerHostname"]: ray.remote(_sees)
            .options(num_cpus=0, scheduling_strategy=near(node["NodeID"], soft=False))
            .remote(file.name, os.getcwd())
            for node in nodes
        }
        without = sorted(name for name, sees in answers.items() if not ray.get(sees))
    if without:
        raise ValueError(
            f"all machines of the cluster must share the folders '{folder.absolute()}' and '{os.getcwd()}'; "
            f"{', '.join(without)} did not find them. Work in a shared folder, with --out below it"
        )


def _sees(file: str, here: str) -> bool:
    return os.path.exists(file) and os.path.isdir(here)
