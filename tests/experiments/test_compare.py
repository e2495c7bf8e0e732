"""Comparisons: every row is measured once, however often the comparison is interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import cpvt
from cpvt import training
from cpvt.cli.parsing import parse
from cpvt.config import CompareConfig, DataConfig, OptimConfig
from cpvt.data import open_data
from cpvt.encodings import TABLE as ENCODINGS
from cpvt.encodings import Entry
from cpvt.encodings.table import groups
from cpvt.evaluation import profile as profiling
from cpvt.experiments import compare as comparing
from cpvt.results.rows import read_rows
from cpvt.training import DivergedError, check


@pytest.fixture
def config(tmp_path, tiny_folder):
    return CompareConfig(
        out=str(tmp_path / "compare"), encodings=("learned", "peg"), canvas_sizes=(8, 12), resize_sizes=(8, "8x12"),
        img_size=8, parallel=1, dataset=DataConfig(str(tiny_folder)), optim=OptimConfig(epochs=1, batch_size=4),
    )  # fmt: skip


def keys(config):
    rows = read_rows(comparing.Path(config.out) / "rows.jsonl")
    return [(row.encoding, row.pool, row.seed, row.protocol, row.size) for row in rows]


def test_class_token_for_all_and_gap_for_peg_too(config):
    cpvt.compare(config)
    tests = [("canvas", 8), ("canvas", 12), ("resize", 8), ("resize", (8, 12))]
    heads = [("learned", "cls"), ("peg", "cls"), ("peg", "gap")]
    assert keys(config) == [(*head, 0, *test) for head in heads for test in tests]
    page = cpvt.report(config.out).read_text()
    assert "peg · gap" in page
    assert "data:image/png;base64" in page


def test_the_page_says_how_images_were_mirrored(config):
    cpvt.compare(replace(config, encodings=("learned",), canvas_sizes=(8,), resize_sizes=(8,)))
    assert "augment resized-crop" in (page := cpvt.report(config.out).read_text())
    assert "hflip 0.5" in page


def test_pools_and_seeds_multiply_with_seeds_outermost(config):
    cpvt.compare(replace(config, pool=("gap",), seeds=(0, 1), protocols=("canvas",), canvas_sizes=(8,)))
    assert [key[:3] for key in keys(config)] == [
        ("learned", "gap", 0), ("peg", "gap", 0), ("learned", "gap", 1), ("peg", "gap", 1),
    ]  # fmt: skip


def test_processes_give_the_rows_of_one_process(config, tmp_path, forked):
    cpvt.compare(config)
    parallel = replace(config, out=str(tmp_path / "parallel"), parallel=2)
    progress, rows = [], []
    cpvt.compare(parallel, lambda *step: progress.append(step), rows.append)
    assert sorted(map(str, keys(parallel))) == sorted(map(str, keys(config)))
    assert len(rows) == 12
    assert any("peg gap seed 0" in step[0] for step in progress)


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_an_interrupted_comparison_resumes_and_recomputes_nothing(config, stop_at, monkeypatch):
    seen = []

    def interrupt(row):
        seen.append(row.key)
        if len(seen) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cpvt.compare(config, on_row=interrupt)
    trained = []
    monkeypatch.setattr(
        comparing, "train", lambda training, *given: (trained.append(training.out), real(training, *given))[1]
    )
    cpvt.compare(config, on_row=lambda row: seen.append(row.key))
    assert len(seen) == len(set(seen)) == 12
    assert len(keys(config)) == 12


real = comparing.train


def test_a_finished_comparison_computes_nothing(config, monkeypatch):
    cpvt.compare(config)
    monkeypatch.setattr(comparing, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(profiling, "_speeds", lambda *_: pytest.fail("measured again"))
    cpvt.compare(config, on_row=lambda row: pytest.fail("tested again"))


def test_a_comparison_grows(config):
    cpvt.compare(config)
    added = []
    cpvt.compare(
        replace(config, encodings=("learned", "peg", "none"), resize_sizes=(8, "8x12", 16)), on_row=added.append
    )
    assert {(row.encoding, row.pool, row.size) for row in added if row.encoding != "none"} == {
        ("learned", "cls", 16), ("peg", "cls", 16), ("peg", "gap", 16),
    }  # fmt: skip
    assert sum(row.encoding == "none" for row in added) == 5


def test_bad_images_may_be_skipped_in_a_comparison_that_goes_on(config):
    cpvt.compare(config)
    next((comparing.Path(config.dataset.data) / "test" / "cat").iterdir()).write_text("no image")  # damaged since
    more = replace(config, resize_sizes=(*config.resize_sizes, 20))
    with pytest.raises(ValueError, match="--on-bad-image skip"):
        cpvt.compare(more)
    cpvt.compare(replace(more, dataset=replace(config.dataset, on_bad_image="skip")))


def test_another_recipe_in_the_same_folder_is_refused(config):
    cpvt.compare(config)
    before = (comparing.Path(config.out) / "rows.jsonl").read_text()
    with pytest.raises(ValueError, match=r"another configuration \(lr: 0.003 -> 0.1\)"):
        cpvt.compare(replace(config, optim=replace(config.optim, lr=0.1)))
    assert (comparing.Path(config.out) / "rows.jsonl").read_text() == before


def test_a_failing_worker_says_why(config, forked):
    (comparing.Path(config.dataset.data) / "train" / "cat" / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match="bad.jpg"):
        cpvt.compare(replace(config, parallel=2))


def test_a_training_that_diverges_ends_no_other(config, monkeypatch):
    real = training.trainer.Trainer._reduce

    def poisoned(trainer, *given):
        trainer.pending.loss *= float("nan") if trainer.config.encoding == "learned" else 1
        real(trainer, *given)

    monkeypatch.setattr(training.trainer.Trainer, "_reduce", poisoned)
    for _ in range(2):  # again it diverges, and nothing else is left to do
        with pytest.raises(
            DivergedError, match=r"1 of 3 trainings diverged.*learned cls seed 0: the loss is no longer a number"
        ):
            cpvt.compare(config)
    assert {key[:2] for key in keys(config)} == {("peg", "cls"), ("peg", "gap")}
    assert len(keys(config)) == 8
    assert "peg · gap" in cpvt.report(config.out).read_text()


def test_trainings_that_diverge_in_processes_are_named(config, forked):
    wild = replace(config, parallel=2, optim=replace(config.optim, lr=1e30, clip_grad=None, warmup_ratio=0.0, epochs=3))
    with pytest.raises(DivergedError, match="3 of 3 trainings diverged.*peg gap seed 0: "):
        cpvt.compare(wild)
    assert keys(config) == []


def test_choices_that_do_not_exist(config):
    for change, message in [
        ({"encodings": ("pge",)}, "unknown encoding 'pge'"),
        ({"protocols": ("zoom",)}, "among canvas, resize; got 'zoom'"),
        ({"pool": ("max",)}, "cls, gap; got 'max'"),
        ({"parallel": 0}, "parallel must be 1 or more"),
        ({"canvas_sizes": ("x",)}, "got 'x'"),
        ({"resize_sizes": (8, 2)}, "size 2 is smaller than a patch"),
        ({"seeds": ()}, "seeds must name at least one"),
        ({"protocols": ()}, "protocols must name at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            cpvt.compare(replace(config, **change))
        assert not comparing.Path(config.out).exists()


def test_quick_changes_only_what_was_not_given():
    quick = comparing.spell_out(CompareConfig(quick=True))
    assert (quick.out, quick.encodings, quick.pool) == ("runs/quick", ("learned", "rope", "peg"), ("cls",))
    assert (quick.canvas_sizes, quick.resize_sizes) == ((32, 48, 64), (24, 32, 48))
    assert quick.optim == replace(OptimConfig(), epochs=12)
    given = CompareConfig(quick=True, out="mine", encodings=("none",), canvas_sizes=(40,), optim=OptimConfig(epochs=3))
    spelled = comparing.spell_out(given)
    assert (spelled.out, spelled.encodings, spelled.canvas_sizes) == ("mine", ("none",), (40,))
    assert spelled.optim.epochs == 3
    for arguments, epochs in (((), 12), (("--lr", "0.01"), 12), (("--epochs", "20"), 20)):
        assert comparing.spell_out(parse(["compare", "--quick", *arguments])).optim.epochs == epochs
    assert comparing.spell_out(CompareConfig(quick=True, optim=OptimConfig(epochs=20))).optim.epochs == 20


def test_groups_are_recorded_by_the_names_of_their_encodings(config, monkeypatch):
    for given, expected in [((), groups()["paper"]), (("all",), tuple(ENCODINGS)),
                            (("peg", "absolute", "paper"), ("peg", *groups()["absolute"]))]:  # fmt: skip
        assert comparing.spell_out(CompareConfig(encodings=given)).encodings[: len(expected)] == expected
    small = replace(config, encodings=("convolution",), pool=("cls",), canvas_sizes=(8,), protocols=("canvas",))
    members = list(groups()["convolution"])
    cpvt.compare(small)
    recorded = json.loads((Path(config.out) / "compare.json").read_text())["config"]["encodings"]
    assert recorded == [key[0] for key in keys(config)] == members
    monkeypatch.setitem(ENCODINGS, "mine", Entry("cpvt.encodings.none:NoEncoding", ("convolution",)))
    monkeypatch.setattr(comparing, "train", lambda *_: pytest.fail("trained again"))
    cpvt.compare(replace(small, encodings=tuple(recorded)))
    assert [key[0] for key in keys(config)] == members


def test_default_sizes_follow_the_training_size():
    plain = comparing.spell_out(CompareConfig())
    assert (plain.out, plain.canvas_sizes, plain.resize_sizes) == (
        "runs/compare", (32, 48, 64, 96), (16, 24, 32, 48, 64),
    )  # fmt: skip
    larger = comparing.spell_out(CompareConfig(img_size=64))
    assert (larger.canvas_sizes, larger.resize_sizes) == ((64, 96, 128, 192), (32, 48, 64, 96, 128))


def test_an_encoding_added_later_keeps_the_profiles_of_the_others(config):
    cpvt.compare(config)
    cpvt.compare(replace(config, encodings=("none",), pool=("cls",)))
    profiles = json.loads((comparing.Path(config.out) / "profile.json").read_text())
    assert [profile["name"] for profile in profiles] == ["learned-cls", "peg-cls", "peg-gap", "none-cls"]


def test_rows_without_checkpoints_are_enough(config, monkeypatch):
    import shutil

    cpvt.compare(config)
    shutil.rmtree(comparing.Path(config.out) / "runs")
    monkeypatch.setattr(comparing, "train", lambda *_: pytest.fail("trained again"))
    cpvt.compare(config, on_row=lambda row: pytest.fail("tested again"))


def test_a_callback_that_fails_stops_the_comparison(config, forked):
    def fail(row):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        cpvt.compare(replace(config, parallel=2), on_row=fail)


def test_duplicates_are_measured_once(config):
    cpvt.compare(
        replace(config, encodings=("peg", "peg"), pool=("cls",), seeds=(0, 0), canvas_sizes=(8, "8"), resize_sizes=(8,))
    )
    assert len(keys(config)) == 2


def test_speed_and_attention_are_profiled(config):
    folder = cpvt.compare(config)
    profiles = json.loads((folder / "profile.json").read_text())
    assert [profile["name"] for profile in profiles] == ["learned-cls", "peg-cls", "peg-gap"]
    for profile in profiles:
        assert all(rate > 0 for rate in profile["images_per_second"])
        attention = profiling.np.load(folder / "arrays" / f"attention-{profile['name']}.npy")
        assert attention.shape == (4, 4)


def test_profiles_of_earlier_versions_are_read(config, monkeypatch):
    folder = cpvt.compare(config)
    text = (folder / "profile.json").read_text().replace("images_per_second", "pictures_per_second")
    (folder / "looks.json").write_text(text)
    (folder / "profile.json").unlink()
    monkeypatch.setattr(profiling, "_speeds", lambda *_: pytest.fail("measured again"))
    cpvt.compare(config)


def test_data_is_opened_and_options_are_checked_once(config, monkeypatch):
    opened, checked = [], []
    for module in (comparing, training):
        monkeypatch.setattr(module, "open_data", lambda *given, **how: opened.append(given) or open_data(*given, **how))
        monkeypatch.setattr(module, "check", lambda config, data: checked.append(config.out) or check(config, data))
    cpvt.compare(config)
    assert len(opened) == 1
    assert len(checked) == len(set(checked)) == 3


def test_a_protocols_own_sizes_take_precedence():
    spelled = comparing.spell_out(CompareConfig(sizes=(16, "16x24"), canvas_sizes=("48",)))
    assert (spelled.canvas_sizes, spelled.resize_sizes, spelled.sizes) == ((48,), (16, (16, 24)), (16, (16, 24)))


def test_a_limited_comparison_resumes(config):
    limited = replace(
        config, encodings=("learned",), dataset=replace(config.dataset, limit=4), canvas_sizes=(8,), resize_sizes=(8,)
    )
    cpvt.compare(limited)
    rows = read_rows(Path(config.out) / "rows.jsonl")
    assert {row.total for row in rows} == {4}
    cpvt.compare(limited)
    assert read_rows(Path(config.out) / "rows.jsonl") == rows


def test_rows_of_the_other_decoding_do_not_stand_for_a_test(config):
    config = replace(config, encodings=("learned",), canvas_sizes=(8,), resize_sizes=(8,))
    file = Path(config.out) / "rows.jsonl"
    cpvt.compare(config)
    rows = read_rows(file)
    file.write_text(
        "".join(line.replace("}", ', "reduced_jpegs": true}') + "\n" for line in file.read_text().splitlines())
    )
    cpvt.compare(config)
    assert [row.reduced_jpegs for row in read_rows(file)] == [True] * len(rows) + [False] * len(rows)


def test_rows_of_another_precision_do_not_stand_for_a_test(config):
    (task, *_) = comparing._tasks(config, quick=False)
    training = task.training
    measured = (training.dataset.name, training.model, training.encoding, training.pool, training.seed)
    assert comparing._remaining(task, {(*measured, *test, "bf16") for test in task.tests}) == task
    assert comparing._remaining(task, {(*measured, *test, "fp32") for test in task.tests}) is None


def test_a_comparison_whose_images_changed_is_refused(config, tiny_folder):
    small = replace(config, encodings=("learned",), canvas_sizes=(8,), resize_sizes=(8,))
    cpvt.compare(small)
    rows = read_rows(Path(config.out) / "rows.jsonl")
    next((tiny_folder / "test" / "cat").iterdir()).unlink()
    for wanted in (small, replace(small, seeds=(0, 1)), replace(small, resize_sizes=(8, 12))):
        with pytest.raises(ValueError, match=r"began with other images .test: 6 before, 5 now.; restore those"):
            cpvt.compare(wanted)
    assert read_rows(Path(config.out) / "rows.jsonl") == rows
