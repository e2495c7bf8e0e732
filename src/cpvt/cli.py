"""The command line: one short function per verb. Options come from cpvt.config; heavy imports are inside."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cpvt.config import (
    CompareConfig,
    ExportConfig,
    ListConfig,
    Options,
    PredictConfig,
    ProbeConfig,
    ReportConfig,
    RetrofitConfig,
    Size,
    SweepConfig,
    TrainConfig,
)
from cpvt.config.legacy import refuse_old_flags

if TYPE_CHECKING:
    from cpvt.results.rows import Row


def train(config: TrainConfig) -> dict[str, Any]:
    from cpvt.data import open_data
    from cpvt.evaluation.sweep import sweep
    from cpvt.results.checkpoints import load
    from cpvt.results.folders import HISTORY, ROWS
    from cpvt.runtime import distributed
    from cpvt.runtime.files import append_rows, read_lines
    from cpvt.runtime.progress import Bars
    from cpvt.training import train as run_training

    source = config.dataset
    with Bars() as bars:
        data = open_data(source.data, source.data_dir)
        folder = run_training(config, bars, data)
        checkpoint = load(folder, config.device)
        history = [values for _, values in read_lines(folder / HISTORY)]
        rows: list[Row] = []
        if data.test is not None or data.test_stream is not None:  # by all processes together
            rows += sweep(
                checkpoint, data, [checkpoint.config.img_size], crop_pct=source.crop_pct, on_bad_image=source.on_bad_image,
                workers=source.workers, on_progress=bars,
            )  # fmt: skip
    told = {"run": str(folder), "train_accuracy": history[-1]["accuracy"],
            "skipped": history[-1]["skipped"] + sum(row.skipped for row in rows),
            "test_accuracy": rows[0].accuracy if rows else None}  # fmt: skip
    if not distributed.is_main_process():
        return told
    append_rows(folder / ROWS, rows)
    if history[-1]["shrunk"]:
        print(f"{history[-1]['shrunk']} training images were shrunk to the longest side allowed (--longest-side)")
    tested = f", test accuracy {rows[0].accuracy:.1%} at {rows[0].size} pixels" if rows else ""
    bad = f"; {told['skipped']} images did not decode" if told["skipped"] else ""
    print(f"{folder}: training accuracy {history[-1]['accuracy']:.1%}{tested}{bad}")
    return told


def sweep(config: SweepConfig) -> dict[str, Any]:
    from pathlib import Path

    from cpvt.evaluation.sweep import sweep as run_sweep
    from cpvt.results.folders import ROWS
    from cpvt.runtime import distributed
    from cpvt.runtime.files import append_rows, check_writable
    from cpvt.runtime.progress import Bars

    options = vars(config).copy()
    model, out = config.model, options.pop("out")
    folder = Path(out or (model if Path(model).is_dir() else "runs/sweep"))
    rows: list[Row] = []
    check_writable(folder)
    distributed.join(config.device)
    with Bars() as bars:
        for row in run_sweep(**options, on_progress=bars):
            rows.append(row)
            if not distributed.is_main_process():
                continue
            append_rows(folder / ROWS, [row])
            if row.refused:
                bars.say(f"refuses {_size(row)}: {row.refused}")
            if row.shrunk:
                bars.say(f"{row.shrunk} images were shrunk to the longest side allowed (--longest-side)")
            if row.skipped:
                bars.say(f"{row.skipped} images could not be used and were left out")
    if distributed.is_main_process():
        _print_table(rows)
    return {"model": model, "rows": str(folder / ROWS),
            "accuracy": {_size(row): None if row.refused else round(row.accuracy, 4) for row in rows}}  # fmt: skip


def retrofit(config: RetrofitConfig) -> dict[str, Any]:
    from cpvt.experiments.finetune import retrofit_and_test
    from cpvt.runtime.progress import Bars

    def say(row: Row) -> None:
        words = f"refuses: {row.refused}" if row.refused else f"accuracy {row.accuracy:6.1%}"
        bars.say(f"{row.encoding:32} {row.protocol} {_size(row):>7}  {words}")

    with Bars() as bars:
        folder = retrofit_and_test(config, bars, say)
    return {"run": str(folder), **report(ReportConfig((str(folder),)))}


def probe(config: ProbeConfig) -> dict[str, Any]:
    from cpvt.evaluation.probes import probe as run_probes
    from cpvt.reporting.probed import HEADLINES, Line, Probed
    from cpvt.reporting.terminal import print_probe_results
    from cpvt.runtime.progress import Bars

    with Bars() as bars:
        probe_results = list(run_probes(**vars(config), on_progress=bars))
    print_probe_results(probe_results)
    probed, line = Probed(probe_results), Line(probe_results[0].model, "model")
    return {"model": line.model, "probe_results": len(probe_results), "refused": len(probed.refusals()), "out": config.out,
            "headlines": {each.title: probed.one(line, *each[1:5]) for each in HEADLINES}}  # fmt: skip


def predict(config: PredictConfig) -> dict[str, Any]:
    from cpvt.evaluation.predict import predict as run_prediction
    from cpvt.evaluation.predict import split_names
    from cpvt.models.pretrained import introduce

    model, images = split_names(config.images)
    if model != config.images[0]:
        print(introduce(model), file=sys.stderr)
    found = []
    for prediction in run_prediction(model, **{**vars(config), "images": images}):
        found.append(prediction._asdict())
        if prediction.error:
            print(f"{prediction.image}: skipped, {prediction.error}")
            continue
        if prediction.shrunk_from:
            before, after = ("x".join(map(str, sides)) for sides in (prediction.shrunk_from, prediction.size))
            print(f"{prediction.image}: shrunk from {before} to {after} pixels (--longest-side)", file=sys.stderr)
        print(f"{prediction.image}  " + "  ".join(f"{name} {share:.1%}" for name, share in prediction.classes))
    return {"predictions": found}


def export(config: ExportConfig) -> dict[str, Any]:
    from cpvt.evaluation.export import export as run_export

    exported = run_export(**vars(config))
    print(f"{exported.path}: equal to eager within {exported.error:.1e} at {len(exported.checked)} other sizes")
    return {"file": str(exported.path), "error": exported.error, "checked": exported.checked}


def compare(config: CompareConfig) -> dict[str, Any]:
    from cpvt.experiments.compare import compare as run_comparison
    from cpvt.runtime.progress import Bars

    def say(row: Row) -> None:
        name = f"{row.encoding} {row.pool} seed {row.seed}"
        bars.say(f"{name:28} {row.protocol} {_size(row):>7}  accuracy {row.accuracy:6.1%}")

    with Bars() as bars:
        folder = run_comparison(config, bars, say)
    return report(ReportConfig((str(folder),)))


def report(config: ReportConfig) -> dict[str, Any]:
    from pathlib import Path

    from cpvt.reporting import gather
    from cpvt.reporting import report as draw_report
    from cpvt.reporting.terminal import print_probe_results
    from cpvt.results.folders import PROBE_REPORT, PROBE_RESULTS, SUMMARY
    from cpvt.results.probe_results import read_probe_results

    page = draw_report(*config.folders, out=config.out)
    rows = gather(config.folders)
    _print_table(rows)
    probe_results = [
        probe_result for folder in config.folders for probe_result in read_probe_results(Path(folder) / PROBE_RESULTS)
    ]
    if probe_results:
        print_probe_results(probe_results)
    print(f"the page: {page}")
    probed = {"probe_results": len(probe_results), "probes": str(page.parent / PROBE_REPORT)} if probe_results else {}
    return {"report": str(page), "rows": len(rows), "summary": str(page.parent / SUMMARY), **probed}


def list_names(config: ListConfig) -> dict[str, Any]:
    from cpvt.data import describe_datasets
    from cpvt.data.protocols import describe_protocols
    from cpvt.encodings import describe_encodings, markdown_table
    from cpvt.models import describe_models

    if config.markdown:
        print(markdown_table())
        return {"encodings": list(describe_encodings())}
    parts = {
        "encodings": describe_encodings(),
        "models": describe_models(),
        "data sets": describe_datasets(),
        "protocols": describe_protocols(),
    }
    for title, names in parts.items():
        width = max(map(len, names))
        print(f"{title}:\n" + "\n".join(f"  {name:{width}}  {words}" for name, words in names.items()) + "\n")
    return {title: list(names) for title, names in parts.items()}


def _size(row: Row) -> str:
    from cpvt.reporting.summary import size_label

    return size_label(row.size)


def _print_table(rows: list[Row]) -> None:
    from cpvt.reporting.terminal import print_tables

    print_tables(rows)


VERBS: dict[str, tuple[type[Options], Any, str]] = {
    "compare": (CompareConfig, compare, "train every encoding alike, test at sizes never seen, draw the page"),
    "train": (TrainConfig, train, "train one model, by options or by a recipe: cpvt train RECIPE.py ..."),
    "sweep": (SweepConfig, sweep, "test a model at many sizes: a run, or timm:NAME, hf:NAME, torchvision:NAME"),
    "retrofit": (RetrofitConfig, retrofit, "give a trained model PEGs, train it on, test it before and after"),
    "probe": (ProbeConfig, probe, "measure what a model knows of positions"),
    "predict": (PredictConfig, predict, "name what images show, each at its own size"),
    "export": (ExportConfig, export, "write a model as one file for all sizes: .onnx or .pt2"),
    "report": (ReportConfig, report, "draw the page from rows again, of one folder or of several"),
    "list": (ListConfig, list_names, "encodings, models, data sets"),
}


def parse(arguments: list[str] | None = None) -> Any:
    """The configuration that a command line asks for; `train RECIPE.py ...` puts options over those of the recipe."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    refuse_old_flags(words)
    recipe: TrainConfig | None = None
    files = [word for word in words[1:] if word.endswith(".py") and not word.startswith("-")]
    if words[:1] == ["train"] and files:
        from cpvt.config.recipes import read_recipe

        if len(files) > 1:
            raise ValueError(f"train takes one recipe, and here are {len(files)}: {', '.join(files)}; leave one")
        words.remove(files[0])
        recipe = read_recipe(files[0])
    union: Any = None
    for name, (kind, _, about) in VERBS.items():
        by_place = (tyro.conf.PositionalRequiredArgs,) if _by_place(kind) else ()
        default: dict[str, Any] = {"default": recipe} if kind is TrainConfig and recipe is not None else {}
        plain = (tyro.conf.AvoidSubcommands,) if kind is TrainConfig else ()  # no flags for the PEGs of a retrofit
        marked: Any = (kind, tyro.conf.subcommand(name, description=about, **default), *by_place, *plain)
        option = Annotated[marked]
        union = option if union is None else union | option
    about = "Which positional encoding holds at any size? The last line of every command's output is one JSON object."
    with Options.checked_later(), _registry():  # tyro would wrap what is wrong with an option in a box of its own
        config = tyro.cli(union, prog="cpvt", args=words, description=about, config=(tyro.conf.OmitArgPrefixes,))
    config.check()
    return config


def _by_place(kind: Any) -> bool:
    """Whether a verb's required options are given by place, without a flag: all but the folder of a training."""
    return any(
        each.default is MISSING and each.default_factory is MISSING and each.name != "out" for each in fields(kind)
    )


def _registry() -> tyro.constructors.ConstructorRegistry:
    """How the command line takes a size: as one word, parsed where configurations are checked."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def size_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type not in (Size, Size | None):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="SIZE", instance_from_str=lambda words: None if words == ["None"] else words[0],
            is_instance=lambda size: size is None or isinstance(size, (int, str, tuple)),
            str_from_instance=lambda size: ["x".join(map(str, size)) if isinstance(size, tuple) else str(size)],
        )  # fmt: skip

    return registry


def main(arguments: list[str] | None = None) -> None:
    """Run `cpvt VERB ...`; the last line of standard output is one JSON object, printed by the main process."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m cpvt` does, so that module:Class is found in the current folder
    try:
        config = parse(arguments)
        act = next(act for kind, act, _ in VERBS.values() if isinstance(config, kind))
        if _launched() and act not in (train, sweep):
            raise ValueError(
                "several processes were started, and of all verbs `train` and `sweep` share their work among them; start one "
                "(`cpvt compare` starts its own: --parallel, --cluster)"
            )
        told = act(config)
        _leave()
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(told))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"cpvt: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("cpvt: interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    except RuntimeError as error:
        if not hasattr(error, "exit_code"):
            raise
        print(f"cpvt: {error}", file=sys.stderr)
        _leave()  # all were stopped
        raise SystemExit(error.exit_code) from None


def _launched() -> bool:
    """Whether there are other processes; as in cpvt.runtime.distributed, without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave() -> None:
    if _launched():
        from cpvt.runtime import distributed

        distributed.leave()
