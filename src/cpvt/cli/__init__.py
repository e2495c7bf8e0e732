"""The command line: `cpvt VERB ...`. Its verbs are in verbs.py, their options in cpvt.config."""

from __future__ import annotations

import io
import json
import os
import sys

from cpvt import __version__
from cpvt.cli.help import first_page, show, show_mistake, verb_page, verbs_page
from cpvt.cli.parsing import check_names, parse, parse_recipe
from cpvt.cli.verbs import VERBS, sweep, train
from cpvt.runtime.memory import keep_freed_memory

__all__ = ["VERBS", "main", "parse"]


def main(arguments: list[str] | None = None) -> None:
    """Run `cpvt VERB ...`; the last line of standard output is one JSON object, printed by the main process."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m cpvt` does, so that module:Class is found in the current folder
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to lose a result
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if not _answer(arguments):
            _run(arguments)
        if sys.stdout is not None:  # closed
            sys.stdout.flush()  # here, where a closed pipe is distinguished from other errors
    except BrokenPipeError:  # whoever reads the output has seen enough, as in `cpvt list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to say at the end
        raise SystemExit(141) from None  # what a shell says of a process that its pipe ended
    except (ValueError, OSError, FloatingPointError) as error:
        show_mistake(str(error), next((verb for verb in arguments[:1] if verb in VERBS), None))
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("cpvt: interrupted; finished work is saved, and the same command resumes", file=sys.stderr)
        raise SystemExit(130) from None
    except RuntimeError as error:
        if not hasattr(error, "exit_code"):
            raise
        print(f"cpvt: {error}", file=sys.stderr)
        _leave()  # every process was stopped
        raise SystemExit(error.exit_code) from None


def _answer(arguments: list[str]) -> bool:
    """Print what is asked of the command line itself: its first page, its help, its version; False if it is not."""
    asks_help = bool({"-h", "--help"} & set(arguments))
    if not arguments:
        show(first_page())
    elif arguments == ["--version"]:
        print(f"cpvt {__version__}")
    elif asks_help and arguments[0] in VERBS:
        show(verb_page(arguments[0], parse_recipe(arguments)))
    elif asks_help and arguments[0].startswith("-"):
        show(verbs_page())
    else:
        return False
    return True


def _run(arguments: list[str]) -> None:
    keep_freed_memory()
    config = parse(arguments)
    check_names(config)
    act = VERBS[arguments[0]][1]
    if _launched() and act not in (train, sweep):
        raise ValueError(
            "only `train` and `sweep` run in several processes; start this verb in one "
            "(`cpvt compare` starts its own: --parallel, --cluster)"
        )
    result = act(config)
    _leave()
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result))


def _launched() -> bool:
    """Whether a launcher started several processes; as in cpvt.runtime.distributed, without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave() -> None:
    if _launched():
        from cpvt.runtime import distributed

        distributed.leave()
