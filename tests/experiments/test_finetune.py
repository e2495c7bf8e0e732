"""Retrofitting from end to end: tested before and after, with a control, resumed, saved and loaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cpvt
from cpvt.cli import main
from cpvt.config import DataConfig, OptimConfig, Retrofit, RetrofitConfig, TrainConfig
from cpvt.experiments.finetune import BEFORE, CONTROL, retrofit_and_test
from cpvt.results.rows import read_rows
from cpvt.training import train

VIT = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=3, num_heads=2)"


@pytest.fixture
def vit(tmp_path, tiny_folder):
    """A small timm model, trained for one epoch."""
    recipe, source = OptimConfig(epochs=1, batch_size=4), DataConfig(str(tiny_folder))
    return train(TrainConfig(str(tmp_path / "vit"), model=VIT, img_size=8, dataset=source, optim=recipe))


@pytest.fixture
def config(tmp_path, tiny_folder, vit):
    recipe = OptimConfig(epochs=2, batch_size=4, lr=1e-3)
    return RetrofitConfig(
        str(vit), str(tmp_path / "retro"), sizes=(8, "12x16"), retrofit=Retrofit((1, 2), "fade"),
        dataset=DataConfig(str(tiny_folder)), optim=recipe,
    )  # fmt: skip


AFTER = "PEG after 1, 2, table faded out"


def test_the_model_is_tested_before_and_after_and_with_a_control(config, vit):
    folder = retrofit_and_test(config)
    rows = {(row.encoding, row.size): row for row in read_rows(folder / "rows.jsonl")}
    assert list(rows) == [(label, size) for label in (BEFORE, CONTROL, AFTER) for size in (8, (12, 16))]
    assert {(row.model, row.total, row.train_size) for row in rows.values()} == {(VIT, 6, 8)}
    assert rows[BEFORE, 8].correct == next(cpvt.sweep(vit, None, [8])).correct
    for label, run in {CONTROL: folder / "control", AFTER: folder}.items():
        (again,) = cpvt.sweep(run, None, ["12x16"])
        assert (again.correct, again.hits) == (rows[label, (12, 16)].correct, rows[label, (12, 16)].hits)


def test_a_vit_of_one_size_is_trained_at_several_and_loaded_again(config):
    folder = retrofit_and_test(replace(config, train_sizes=(8, 12, 16), control=False))
    rows = read_rows(folder / "rows.jsonl")
    assert {(row.model, row.encoding) for row in rows} == {(VIT, BEFORE), (VIT, AFTER)}
    before = retrofit_and_test(replace(config, out=f"{config.out}-one", control=False)) / "rows.jsonl"
    hits = [
        {row.size: row.hits for row in read_rows(path) if row.encoding == BEFORE}
        for path in (folder / "rows.jsonl", before)
    ]
    assert hits[0] == hits[1]  # the same weights, whichever way the table is resized
    assert cpvt.load(folder).record["model"]["name"] == f"{VIT[:-1]}, dynamic_img_size=True)"
    (again,) = cpvt.sweep(folder, None, ["12x16"])
    assert again.hits == next(row.hits for row in rows if (row.encoding, row.size) == (AFTER, (12, 16)))
    assert retrofit_and_test(replace(config, train_sizes=(8, 12, 16), control=False)) == folder
    assert read_rows(folder / "rows.jsonl") == rows


def test_a_vit_of_hugging_face_is_trained_at_several_sizes_and_rows_say_at_which(config, tmp_path):
    model = "hf:vit(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=16, patch_size=4)"
    start = train(
        TrainConfig(str(tmp_path / "hf"), model=model, img_size=8, dataset=config.dataset, optim=config.optim)
    )
    folder = retrofit_and_test(replace(config, model=str(start), train_sizes=(8, 12, 16), retrofit=Retrofit((1,))))
    rows = read_rows(folder / "rows.jsonl")
    assert {(row.encoding, row.train_sizes) for row in rows} == {
        (BEFORE, ()), (CONTROL, (8, 12, 16)), ("PEG after 1, table kept", (8, 12, 16)),
    }  # fmt: skip
    assert {row.takes_sizes for row in rows if row.size != 8} == {"interpolate_pos_encoding"}
    kept = cpvt.load(folder)
    assert kept.record["model"]["name"] == f"{model[:-1]}, interpolate_pos_encoding=True)"
    images = torch.rand(2, 3, 12, 16)
    with torch.no_grad():
        assert torch.equal(kept.model(images).logits, kept.model(images, interpolate_pos_encoding=True).logits)
    (again,) = cpvt.sweep(folder, None, ["12x16"])
    assert (again.model, again.encoding, again.hits) == (rows[-1].model, rows[-1].encoding, rows[-1].hits)
    assert kept._rows() == [row for row in rows if row.encoding == "PEG after 1, table kept"], "what its card shows"
    further = retrofit_and_test(replace(config, model=str(folder / "control"), out=f"{config.out}-further"))
    assert read_rows(further / "rows.jsonl")[0].train_sizes == (8, 12, 16)


def test_the_run_holds_pegs_that_learned_and_a_table_that_is_gone(config):
    checkpoint = cpvt.load(retrofit_and_test(replace(config, control=False)))
    state = checkpoint.model.state_dict()
    assert all(state[f"blocks.{block}.peg.weight"].abs().max() > 0 for block in (0, 1))
    fractions = [value for name, value in state.items() if name.endswith("peg_absolute_share")]
    assert len(fractions) == 1
    assert float(fractions[0]) == 0
    assert checkpoint.record["at"] == [1, 2]


@pytest.mark.parametrize("absolute", ["keep", "fade"])
def test_a_retrofitted_run_is_trained_on_and_keeps_its_pegs_and_their_scale(config, tmp_path, absolute):
    wanted = Retrofit((1, 2), absolute)
    folder = retrofit_and_test(replace(config, retrofit=wanted, control=False))
    first = cpvt.load(folder, "cpu")
    still = OptimConfig(epochs=1, batch_size=4, lr=1e-12, min_lr=1e-13, weight_decay=0)
    for size, grid in ((8, (2, 2)), (12, (3, 3))):
        out = tmp_path / f"more{size}"
        train(TrainConfig(str(out), initial_checkpoint=str(folder), img_size=size, dataset=config.dataset, optim=still))
        again = cpvt.load(out, "cpu")
        assert again.record["at"] == [1, 2]
        assert (again.config.retrofit["absolute"], again.train_size) == (absolute, size)
        assert again.model.scale_grid == (2, 2), "the scale is 1 where it was"
        assert again.model.patch_embed.grid_size == grid
        images = torch.randn(2, 3, size, size)
        first.model.set_input_size((size, size))
        torch.testing.assert_close(again.model(images), first.model(images), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="retrofitted already"):
        retrofit_and_test(replace(config, model=str(out), out=str(tmp_path / "twice")))


def test_an_interrupted_retrofit_resumes_and_repeats_nothing(config):
    def stop(row):
        if row.encoding == CONTROL:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrofit_and_test(config, on_row=stop)
    added = []
    folder = retrofit_and_test(config, on_row=added.append)
    assert [(row.encoding, row.size) for row in added] == [(CONTROL, (12, 16)), (AFTER, 8), (AFTER, (12, 16))]
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 6
    assert retrofit_and_test(config, on_row=added.append) == folder
    assert len(added) == 3


def test_a_test_of_a_part_of_the_images_does_not_stand_for_all(config):
    folder = retrofit_and_test(config)
    total = read_rows(folder / "rows.jsonl")[0].total
    main(["sweep", str(folder), "--sizes", "16", "--protocols", "canvas", "resize", "--limit", "2", "--device", "cpu"])
    retrofit_and_test(replace(config, sizes=(*config.sizes, 16)))
    rows = [row for row in read_rows(folder / "rows.jsonl") if row.size == 16 and row.encoding == AFTER]
    assert {row.total for row in rows} == {2, total}


def test_tests_that_told_nothing_are_measured_again_and_told(config):
    file = retrofit_and_test(config) / "rows.jsonl"
    before = read_rows(file)
    assert {(row.encoding, row.scale_rule) for row in before} == {(BEFORE, ""), (CONTROL, ""), (AFTER, "protocol")}
    file.write_text("".join(line.replace('"scale_rule": "protocol"', '"scale_rule": ""') + "\n"
                            for line in file.read_text().splitlines()))  # fmt: skip
    assert {row.scale_rule for row in read_rows(file)} == {""}  # as an earlier version wrote them
    added = []
    retrofit_and_test(replace(config, sizes=(8, "12x16", 16)), on_row=added.append)
    assert [(row.encoding, row.size, row.scale_rule) for row in added] == [
        (BEFORE, 16, ""), (CONTROL, 16, ""), (AFTER, 8, "protocol"), (AFTER, (12, 16), "protocol"),
        (AFTER, 16, "protocol"),
    ]  # fmt: skip
    file.write_text(file.read_text().replace("}\n", ', "precision": "bf16"}\n'))  # as a sweep adds them
    assert {row.precision for row in read_rows(file)} == {"bf16"}
    retrofit_and_test(config, on_row=added.append)
    assert [row.precision for row in added[5:]] == ["fp32"] * 6
    lines = [line for line in file.read_text().splitlines() if "bf16" not in line]
    file.write_text("".join(line.replace("}", ', "reduced_jpegs": true}') + "\n" for line in lines))
    assert {row.reduced_jpegs for row in read_rows(file)} == {True}
    retrofit_and_test(config, on_row=added.append)
    assert [row.reduced_jpegs for row in added[11:]] == [False] * 6


@pytest.mark.parametrize("train_only", ["peg", "peg+norms"])
def test_frozen_parameters_do_not_change(config, vit, train_only):
    wanted = replace(config.retrofit, absolute="keep", train_only=train_only)
    folder = retrofit_and_test(replace(config, control=False, retrofit=wanted))
    before, after = (cpvt.load(run).model.state_dict() for run in (vit, folder))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert all("norm" in name for name in moved)
    assert bool(moved) == (train_only == "peg+norms")


def test_a_folder_with_another_retrofit_is_refused(config):
    retrofit_and_test(replace(config, control=False))
    other = replace(config.retrofit, at=(1,))
    with pytest.raises(ValueError, match=r"holds another retrofit \(at: \[1, 2\] -> \[1\]\)"):
        retrofit_and_test(replace(config, control=False, retrofit=other))


def test_cpvt_models_take_peg_by_name(config, tiny_run):
    with pytest.raises(ValueError, match=r'train with --initial-checkpoint .* --encoding "peg\+peg"'):
        retrofit_and_test(replace(config, model=str(tiny_run)))


def test_a_model_of_random_weights_is_retrofitted(config):
    folder = retrofit_and_test(replace(config, model=VIT, checkpoint="random", img_size=8, control=False))
    assert {row.encoding for row in read_rows(folder / "rows.jsonl")} == {BEFORE, AFTER}


def test_published_weights_are_the_default(config, monkeypatch, vit):
    """Nothing is downloaded: timm.create_model is replaced by a function that records its calls."""
    import timm

    asked = []

    def create(name, pretrained=False, **options):
        asked.append(pretrained)
        if pretrained:
            raise OSError("no network")
        return real(name, pretrained=pretrained, **options)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ValueError, match="no network|could not be fetched.*or pass --checkpoint FILE"):
        retrofit_and_test(replace(config, model=VIT))
    assert asked[-1] is True


def test_the_command_line_retrofits_and_draws_the_page(tmp_path, vit, tiny_folder, capsys):
    out = str(tmp_path / "retro")
    main(["retrofit", str(vit), "--data", str(tiny_folder), "--at", "2", "--absolute", "keep", "--epochs", "1",
          "--batch-size", "4", "--sizes", "8", "12", "--out", out])  # fmt: skip
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["rows"] == 6
    assert "PEG after 2, table kept" in (tmp_path / "retro" / "report.html").read_text()


def test_predict_takes_runs_of_other_libraries(vit, tmp_path):
    Image.fromarray(np.zeros((9, 14, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    (prediction,) = cpvt.predict(vit, [tmp_path / "one.png"])
    assert (prediction.size, prediction.original_size) == ((8, 8), (14, 9))
    assert sum(probability for _, probability in prediction.classes) == pytest.approx(1, abs=1e-5)


def test_export_takes_runs_of_other_libraries(vit, tmp_path):
    exported = cpvt.export(vit, tmp_path / "model.onnx")
    assert exported.fixed_size is None
    assert len({each[1:] for each in exported.checked}) == 5  # sizes, all of them equal to eager


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": (9,)}, "9"),
        ({"fade_end": 0.0}, "fade_end is a fraction of the training"),
        ({"peg_lr_scale": 0}, "peg_lr_scale"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_trained(config, options, message):
    with pytest.raises(ValueError, match=message):
        retrofit_and_test(replace(config, retrofit=replace(config.retrofit, **options)))
    assert not (Path(config.out)).exists()
