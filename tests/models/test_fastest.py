"""The fastest way is measured once, kept for later processes and trainings, and may be forced."""

import json
import time

import pytest
import torch

import cpvt
from cpvt.models import attention, fastest, linear


@pytest.fixture(autouse=True)
def measured(monkeypatch, nothing_chosen):
    """Whatever is asked for is measured."""
    for name in ("CPVT_LINEAR", "CPVT_ATTENTION"):
        monkeypatch.delenv(name, raising=False)


def ways(calls, **seconds):
    """Ways that take so long, and note that they ran."""
    return {name: lambda name=name: lambda: calls.append(name) or time.sleep(seconds[name]) for name in seconds}


def test_the_faster_way_is_measured_once_for_a_shape():
    calls = []
    assert fastest.fastest("linear", (1, 2), ways(calls, torch=0.02, onednn=0.001)) == "onednn"
    assert calls[:4] == ["torch", "onednn"] * 2  # in alternation
    measured = len(calls)
    assert fastest.fastest("linear", (1, 2), ways(calls, torch=0, onednn=9)) == "onednn"
    assert len(calls) == measured
    assert fastest.fastest("linear", (1, 3), ways(calls, torch=0, onednn=0.01)) == "torch"
    assert fastest.fastest("attention", (1, 2), ways(calls, fused=0, plain=0.01)) == "fused"


def test_inputs_are_made_only_for_a_measurement():
    made = []

    def prepare():
        made.append(1)
        return lambda: None

    for _ in range(3):
        fastest.fastest("linear", (1, 2), {"torch": prepare, "onednn": prepare})
    assert len(made) == 2


def test_pytorchs_own_way_is_taken_where_another_is_hardly_faster():
    seconds = {"torch": 104, "onednn": 100}
    spent = [0.0]

    def now():
        return spent[0]

    def way(name):
        def run():
            spent[0] += seconds[name]

        return lambda: run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastest.time, "perf_counter", now)
        patch.setattr(fastest, "SECONDS", 10**9)
        assert fastest.fastest("linear", (1,), {name: way(name) for name in seconds}) == "torch"
        seconds["torch"] = 106
        assert fastest.fastest("linear", (2,), {name: way(name) for name in seconds}) == "onednn"


def test_threads_are_another_shape():
    calls, before = [], torch.get_num_threads()
    assert fastest.fastest("linear", (1,), ways(calls, torch=0, onednn=0.01)) == "torch"
    torch.set_num_threads(before + 1)
    try:
        assert fastest.fastest("linear", (1,), ways(calls, torch=0.01, onednn=0)) == "onednn"
    finally:
        torch.set_num_threads(before)


def test_a_later_process_takes_what_an_earlier_one_chose(monkeypatch):
    calls = []
    fastest.fastest("linear", (1, True), ways(calls, torch=0.01, onednn=0))
    (file,) = fastest.cache_file().parent.glob("fastest-*.json")
    assert json.loads(file.read_text()) == fastest.choices() == [["linear", 1, True, torch.get_num_threads(), "onednn"]]
    monkeypatch.setattr(fastest, "_chosen", {})
    monkeypatch.setattr(fastest, "_stored", set())
    calls.clear()
    assert fastest.fastest("linear", (1, True), ways(calls, torch=0, onednn=9)) == "onednn"
    assert calls == []


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "[[]]"])
def test_a_damaged_cache_counts_as_none(content):
    file = fastest.cache_file()
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert fastest.fastest("linear", (1,), ways([], torch=0.01, onednn=0)) == "onednn"
    assert json.loads(file.read_text())[0][-1] == "onednn"


def test_a_cache_that_cannot_be_written_changes_nothing(monkeypatch, tmp_path):
    (tmp_path / "cpvt").write_text("a file")
    assert fastest.fastest("linear", (1,), ways([], torch=0.01, onednn=0)) == "onednn"


def test_the_environment_names_a_way(monkeypatch):
    monkeypatch.setenv("CPVT_LINEAR", "torch")
    calls = []
    assert fastest.fastest("linear", (1,), ways(calls, torch=9, onednn=0)) == "torch"
    assert calls == []
    monkeypatch.setenv("CPVT_LINEAR", "mkl")
    with pytest.raises(ValueError, match="CPVT_LINEAR must be one of torch, onednn, or unset; got 'mkl'"):
        fastest.fastest("linear", (1,), ways(calls, torch=0, onednn=0))


def test_choices_of_before_are_adopted():
    fastest.adopt(json.loads(json.dumps([["linear", 7, False, torch.get_num_threads(), "onednn"]])))
    assert fastest.fastest("linear", (7, False), ways([], torch=0, onednn=9)) == "onednn"


def test_what_counts_operations_sees_no_measurement():
    from torch.utils.flop_counter import FlopCounterMode

    calls = []
    with FlopCounterMode(display=False):
        assert fastest.fastest("linear", (1,), ways(calls, torch=0.01, onednn=0)) == "torch"
    assert calls == []
    assert fastest.fastest("linear", (1,), ways(calls, torch=0.01, onednn=0)) == "onednn"


@pytest.mark.parametrize("sides", [(32, 32), (32, 48)])
def test_gradient_checkpointing_sees_no_measurement(sides):
    model = cpvt.create_model("cpvt_micro", encoding="peg", num_classes=3, img_size=32)
    model.set_grad_checkpointing()
    for side in sides:
        model(torch.randn(2, 3, side, side)).sum().backward()
    assert fastest.choices()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_each_image_are_those_of_torch_func():
    model = cpvt.create_model("cpvt_micro", encoding="peg", num_classes=3, img_size=32).eval()
    weights, images = dict(model.named_parameters()), torch.randn(2, 3, 32, 32)
    of_one = torch.func.grad(lambda weights, image: torch.func.functional_call(model, weights, (image[None],)).sum())
    found = torch.func.vmap(of_one, (None, 0))(weights, images)
    model(images[:1]).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name][0], weight.grad, atol=1e-4, rtol=1e-4)


def test_adopted_choices_do_not_reach_the_file():
    fastest.adopt([["linear", 7, torch.get_num_threads(), "onednn"]])
    fastest.fastest("linear", (8,), ways([], torch=0, onednn=0.01))
    assert json.loads(fastest.cache_file().read_text()) == [["linear", 8, torch.get_num_threads(), "torch"]]
    assert len(fastest.choices()) == 2


def test_processes_do_not_erase_the_choices_of_each_other(monkeypatch):
    fastest.fastest("linear", (1,), ways([], torch=0, onednn=0.01))
    first, threads = dict(fastest._chosen), torch.get_num_threads()
    monkeypatch.setattr(fastest, "_chosen", {})  # another process, which read before the first wrote
    fastest.fastest("linear", (1,), ways([], torch=0.01, onednn=0))
    fastest.fastest("linear", (2,), ways([], torch=0.01, onednn=0))
    assert first == {("linear", 1, threads): "torch"}
    assert json.loads(fastest.cache_file().read_text()) == [
        ["linear", 1, threads, "torch"], ["linear", 2, threads, "onednn"]
    ]  # fmt: skip


def test_measurements_are_of_float32_on_the_cpu_whatever_the_defaults(monkeypatch):
    noted = []
    for module in (attention, linear):
        monkeypatch.setattr(module, "run_once", lambda form, inputs: noted.extend(inputs))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            linear._prepare(linear.F.linear, (True, 5, 8, 8, True))()
            attention._prepare(attention._attend_plainly, (3, 1, 1, 8, "bias", True))()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {(each.dtype, each.device.type) for each in noted} == {(torch.float32, "cpu")}
    assert len(noted) == 7
