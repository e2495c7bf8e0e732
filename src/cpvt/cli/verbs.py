"""The verbs: one short function each. Options come from cpvt.config; heavy imports are inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpvt.config import (
    CompareConfig,
    ConvertConfig,
    DemoConfig,
    ExportConfig,
    InfoConfig,
    ListConfig,
    Options,
    PredictConfig,
    ProbeConfig,
    ReportConfig,
    RetrofitConfig,
    SweepConfig,
    TrainConfig,
    size_label,
)  # fmt: skip

if TYPE_CHECKING:
    from cpvt.results.rows import Row


def train(config: TrainConfig) -> dict[str, Any]:
    from cpvt.data import open_data
    from cpvt.evaluation.sweep import sweep
    from cpvt.reporting.summary import warnings_of
    from cpvt.results.checkpoints import load
    from cpvt.results.folders import HISTORY, ROWS
    from cpvt.runtime import distributed
    from cpvt.runtime.files import append_rows, read_lines
    from cpvt.runtime.progress import Bars
    from cpvt.training import train as run_training

    with Bars() as bars:
        data = open_data(config.dataset)
        folder = run_training(config, bars, data)
        checkpoint = load(folder, config.device)
        history = [values for _, values in read_lines(folder / HISTORY)]
        last_epoch = history[-1] if history else {}  # none where a finished run came from elsewhere
        kept = next((line for line in history if line.get("kept")), last_epoch)
        rows: list[Row] = []
        if data.test is not None or data.test_stream is not None:  # all processes share the test
            size = checkpoint.config.img_size
            rows += sweep(checkpoint, data, [size], on_progress=bars, **config.dataset.test_options)
    accuracy, skipped = kept.get("accuracy"), last_epoch.get("skipped", 0) + sum(row.skipped for row in rows)
    test_accuracy = rows[0].accuracy if rows else None
    if distributed.is_main_process():
        append_rows(folder / ROWS, rows)
        if last_epoch.get("shrunk"):
            print(f"{last_epoch['shrunk']} training images were shrunk to the longest side allowed (--longest-side)")
        tested = f", test accuracy {test_accuracy:.1%} at {size_label(rows[0].size)} pixels" if rows else ""
        tested = tested or f"; not tested: {data.lacks_test}"
        bad = f"; {skipped} images could not be used" if skipped else ""
        best = f"epoch {kept['epoch']} of {len(history)}, the best in validation, is kept: " if "kept" in kept else ""
        trained = "trained before" if accuracy is None else f"training accuracy {accuracy:.1%}"
        print(f"{folder}: {best}{trained}{tested}{bad}")
        for warning in warnings_of(rows):
            print(f"warning: {warning}")
    return {"run": str(folder), "train_accuracy": accuracy, "skipped": skipped, "test_accuracy": test_accuracy}


def sweep(config: SweepConfig) -> dict[str, Any]:
    from cpvt.evaluation.sweep import sweep as run_sweep
    from cpvt.reporting.summary import clash_warnings, image_warnings
    from cpvt.reporting.terminal import print_tables
    from cpvt.results.folders import ROWS
    from cpvt.results.rows import read_rows
    from cpvt.runtime import distributed
    from cpvt.runtime.files import append_rows, check_writable
    from cpvt.runtime.progress import Bars

    options = vars(config).copy()
    model, out = config.model, options.pop("out")
    folder = Path(out or (model if Path(model).is_dir() else "runs/sweep"))
    rows: list[Row] = []
    said: set[str] = set()  # what is true of every size is said once
    check_writable(folder)
    earlier = read_rows(folder / ROWS)
    distributed.join(config.device)
    with Bars() as bars:
        for row in run_sweep(**options, on_progress=bars):
            rows.append(row)
            if not distributed.is_main_process():
                continue
            append_rows(folder / ROWS, [row])
            if row.refused:
                bars.say(f"size {size_label(row.size)} is not supported: {row.refused}")
            shrunk = f"{row.shrunk} images were shrunk to the longest side allowed (--longest-side)"
            skipped = f"{row.skipped} images could not be used and were skipped"
            for count, message in ((row.shrunk, shrunk), (row.skipped, skipped)):
                if count and message not in said:
                    bars.say(message)
                    said.add(message)
    if distributed.is_main_process():
        print_tables(rows)
        for warning in (*clash_warnings([*earlier, *rows]), *image_warnings(read_rows(folder / ROWS))):
            print(f"warning: {folder / ROWS}: {warning}")
        print(f"cpvt report {folder} draws the page")
    several = len(config.protocols) > 1
    names = [f"{row.protocol} {size_label(row.size)}" if several else size_label(row.size) for row in rows]
    accuracy = {name: None if row.refused else round(row.accuracy, 4) for name, row in zip(names, rows)}
    return {"model": model, "rows": str(folder / ROWS), "accuracy": accuracy}


def retrofit(config: RetrofitConfig) -> dict[str, Any]:
    from cpvt.experiments.finetune import retrofit_and_test
    from cpvt.runtime.progress import Bars

    def on_row(row: Row) -> None:
        result = f"not supported: {row.refused}" if row.refused else f"accuracy {row.accuracy:6.1%}"
        bars.say(f"{row.encoding:32} {row.protocol} {size_label(row.size):>7}  {result}")

    with Bars() as bars:
        folder = retrofit_and_test(config, bars, on_row)
    return {"run": str(folder), **report(ReportConfig((str(folder),)))}


def probe(config: ProbeConfig) -> dict[str, Any]:
    from cpvt.evaluation.probes import probe as run_probes
    from cpvt.reporting.probe_index import HEADLINES, Line, ProbeIndex
    from cpvt.reporting.terminal import print_probe_results
    from cpvt.runtime.progress import Bars

    with Bars() as bars:
        results = list(run_probes(**vars(config), on_progress=bars))
    print_probe_results(results)
    probed, line = ProbeIndex(results), Line(results[0].model, "model")
    headlines = {each.title: probed.one(line, *each[1:5]) for each in HEADLINES}
    counts = {"probe_results": len(results), "refused": len(probed.refusals())}
    return {"model": line.model, **counts, "out": config.out, "headlines": headlines}


def predict(config: PredictConfig) -> dict[str, Any]:
    from cpvt.evaluation.predict import as_table, split_names, summarise
    from cpvt.evaluation.predict import predict as run_prediction
    from cpvt.models.pretrained import introduce
    from cpvt.results.checkpoints import load
    from cpvt.runtime.files import check_new, write_bytes
    from cpvt.runtime.progress import Bars

    if config.csv is not None:
        check_new(Path(config.csv), "--csv")
    model, images = split_names(config.images)
    checkpoint, predictions = load(model, config.device), []
    options = {name: value for name, value in vars(config).items() if name not in ("images", "json", "csv")}
    with Bars() as bars:
        found = run_prediction(checkpoint, images, **options, on_progress=bars)
        if model != config.images[0]:
            bars.say(introduce(model))
        try:
            for prediction in found:
                predictions.append(prediction)
                if not config.json:
                    print(prediction)
        finally:  # what was found before an error is kept
            if config.csv is not None and predictions:
                write_bytes(Path(config.csv), as_table(predictions, config.top).encode(errors="surrogateescape"))
    summary = {"model": model, **summarise(predictions, checkpoint.class_names)}
    return {**summary, "predictions": [each._asdict() for each in predictions]} if config.json else summary


def demo(config: DemoConfig) -> dict[str, Any]:
    from cpvt.demo.server import serve

    return serve(config)


def export(config: ExportConfig) -> dict[str, Any]:
    from cpvt.config.scale import scale_label
    from cpvt.evaluation.export import export as run_export

    exported = run_export(**vars(config))
    fixed, int8 = exported.fixed_size, exported.int8
    at = f"at {len(exported.checked)} other sizes" if fixed is None else f"in {len(exported.checked)} batches"
    only = "" if fixed is None else f"; it takes {fixed[0]}x{fixed[1]} pixels only: the model exports at no other size"
    scaled = "" if exported.scale is None else f", scale {scale_label(exported.scale)}"
    print(f"{exported.path}: equal to eager within {exported.error:.1e} {at}{scaled}{only}")
    if int8 is not None:
        print(int8)
    return exported.record()


def convert(config: ConvertConfig) -> dict[str, Any]:
    from cpvt.models.convert import find_pegs, save_pegs
    from cpvt.runtime.files import check_new

    if config.out is not None:
        check_new(Path(config.out), "--out")
    pegs = find_pegs(config.file, config.prefix, eps=config.eps)
    print("\n".join(map(str, pegs)))
    if config.out is not None:
        save_pegs(Path(config.out), pegs)
        print(f"{config.out}: {len(pegs)} PEGs; cpvt.models.convert.load_pegs reads them")
    return {"file": config.file, "out": config.out, "pegs": [each.record() for each in pegs]}


def compare(config: CompareConfig) -> dict[str, Any]:
    from cpvt.experiments.compare import compare as run_comparison
    from cpvt.runtime.progress import Bars

    def on_row(row: Row) -> None:
        name = f"{row.encoding} {row.pool} seed {row.seed}"
        bars.say(f"{name:28} {row.protocol} {size_label(row.size):>7}  accuracy {row.accuracy:6.1%}")

    with Bars() as bars:
        folder = run_comparison(config, bars, on_row)
    return report(ReportConfig((str(folder),)))


def report(config: ReportConfig) -> dict[str, Any]:
    from cpvt.reporting import gather
    from cpvt.reporting import report as draw_report
    from cpvt.reporting.terminal import print_probe_results, print_tables
    from cpvt.results.folders import PROBE_REPORT, PROBE_RESULTS, SUMMARY
    from cpvt.results.probe_results import read_probe_results

    page = draw_report(*config.folders, out=config.out)
    rows = gather(config.folders)
    print_tables(rows)
    results = [each for folder in config.folders for each in read_probe_results(Path(folder) / PROBE_RESULTS)]
    if results:
        print_probe_results(results)
    print(f"report: {page}")
    probed = {"probe_results": len(results), "probes": str(page.parent / PROBE_REPORT)} if results else {}
    return {"report": str(page), "rows": len(rows), "summary": str(page.parent / SUMMARY), **probed}


def info(config: InfoConfig) -> dict[str, Any]:
    from cpvt.results.checkpoints import read_record
    from cpvt.results.info import describe_run

    record = read_record(config.run)
    lines = describe_run(config.run, record)
    width = max(map(len, lines))
    print("\n".join(f"{title:{width}}  {about}" for title, about in lines.items()))
    return {"run": config.run, **record}


def list_names(config: ListConfig) -> dict[str, Any]:
    from cpvt.data import describe_datasets
    from cpvt.data.protocols import describe_protocols
    from cpvt.encodings import describe_encodings, markdown_table
    from cpvt.encodings.table import groups
    from cpvt.models import describe_models

    if config.markdown:
        print(markdown_table())
        return {"encodings": list(describe_encodings())}
    parts = {
        "encodings": describe_encodings(),
        "groups": {group: ", ".join(names) for group, names in groups().items()} | {"all": "every one"},
        "models": describe_models(),
        "data sets": describe_datasets(),
        "protocols": describe_protocols(),
    }
    for title, names in parts.items():
        width = max(map(len, names))
        print(f"{title}:\n" + "\n".join(f"  {name:{width}}  {about}" for name, about in names.items()) + "\n")
    return {title: list(names) for title, names in parts.items()}


VERBS: dict[str, tuple[type[Options], Any, str]] = {
    "compare": (CompareConfig, compare, "train every encoding alike, test at unseen sizes, write the report"),
    "train": (TrainConfig, train, "train one model, by options or by a recipe: cpvt train RECIPE.py ..."),
    "sweep": (SweepConfig, sweep, "test a model at many sizes: a run, or timm:NAME, hf:NAME, torchvision:NAME"),
    "retrofit": (RetrofitConfig, retrofit, "add PEGs to a trained model, fine-tune it, test it before and after"),
    "probe": (ProbeConfig, probe, "measure what a model knows of positions"),
    "predict": (PredictConfig, predict, "classify images, read as in the tests of the model"),
    "demo": (DemoConfig, demo, "show a model in the browser: an image at many sizes, attention, what PEG adds"),
    "export": (ExportConfig, export, "write a model as one file for all sizes: .onnx or .pt2"),
    "convert": (ConvertConfig, convert, "turn the positional convolutions of another model into PEGs"),
    "report": (ReportConfig, report, "write the report of one or several folders again"),
    "info": (InfoConfig, info, "describe a trained run: model, training, tests, how it reads images"),
    "list": (ListConfig, list_names, "list encodings, models, data sets and protocols"),
}
