"""The Triton kernels against the truth, in float64: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cpvt import PEG, ops
from cpvt.ops import forms, reference

pytest.importorskip("triton")
from cpvt.ops import fused, kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# one unit in the last place: the interpreter cuts bfloat16 off where a GPU rounds
LAST_PLACE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def draw(grid, prefix, kernel_size=3, dim=3, batch=2, dtype=torch.float32):
    """Tokens, weight and bias, all asking for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, prefix + grid[0] * grid[1], dim), (dim, 1, kernel_size, kernel_size), (dim,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def differentiate(peg, inputs, seed, *how, **named):
    """The output and the gradients of all inputs that ask for one; None stays where no bias is."""
    output = peg(*inputs, *how, **named)
    asking = [each for each in inputs if each is not None and each.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, asking, seed.to(output.dtype))]


def check(inputs, grid, prefix, residual=True, dilation=1, seed=None):
    """Compare output and all gradients with the loop over neighbours of the same numbers in float64."""
    if seed is None:
        seed = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])
    named = dict(residual=residual, dilation=dilation)
    wide = [each if each is None else each.detach().double().requires_grad_(each.requires_grad) for each in inputs]
    truths = differentiate(reference.peg, wide, seed.double(), grid, prefix, **named)
    founds = differentiate(ops.peg, inputs, seed, grid, prefix, form="fused", **named)
    dtypes = [inputs[0].dtype, *(each.dtype for each in inputs if each is not None and each.requires_grad)]
    for found, truth, dtype in zip(founds, truths, dtypes):
        assert found.dtype == dtype
        allowed = LAST_PLACE[dtype] * truth.abs() + 2e-6 * truth.abs().max()
        assert ((found.double() - truth).abs() <= allowed).all()


CASES = [  # grid, prefix, side of the kernel, dilation, residual, batch, width
    ((3, 5), 1, 3, 1, True, 3, 24),
    ((3, 5), 1, 1, 1, True, 2, 24),
    ((3, 5), 5, 5, 2, False, 1, 1),
    ((1, 7), 1, 3, 2, True, 1, 130),
    ((1, 7), 0, 5, 1, False, 3, 24),
    ((7, 1), 5, 3, 1, False, 3, 48),
    ((7, 1), 0, 5, 2, True, 1, 24),
    ((1, 1), 1, 3, 1, True, 3, 1),
    ((1, 1), 0, 5, 1, True, 1, 48),
    ((4, 4), 0, 3, 1, True, 3, 130),
    ((4, 4), 5, 3, 1, True, 2, 96),
    ((4, 4), 1, 3, 2, False, 3, 24),
    ((13, 9), 1, 3, 1, True, 1, 16),
    ((4, 2), 1, 7, 1, True, 1, 3),
]
HALVES = [((3, 5), 1, 3, 1, True, 3, 24), ((4, 4), 5, 5, 1, False, 1, 48), ((3, 7), 1, 3, 2, True, 2, 130)]


@pytest.mark.parametrize(
    ("dtype", "grid", "prefix", "kernel_size", "dilation", "residual", "batch", "dim"),
    [(torch.float32, *case) for case in CASES]
    + [(dtype, *case) for case in HALVES for dtype in (torch.bfloat16, torch.float16)],
)
def test_outputs_and_all_gradients_equal_the_truth(dtype, grid, prefix, kernel_size, dilation, residual, batch, dim):
    check(draw(grid, prefix, kernel_size, dim, batch, dtype), grid, prefix, residual, dilation)


def test_without_a_bias():
    tokens, weight, _ = draw((3, 5), 1, dim=24)
    check([tokens, weight, None], (3, 5), 1)


def test_programs_of_several_steps(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS_FORWARD", 4)  # as large batches have them
    monkeypatch.setattr(kernels, "PROGRAMS_BACKWARD", 3)
    check(draw((5, 6), 1, dim=40, batch=4), (5, 6), 1)


def test_a_kernel_of_two_sides():
    tokens, _, bias = draw((3, 5), 1)
    weight = torch.randn(3, 1, 3, 5, generator=torch.Generator().manual_seed(2)).to(DEVICE).requires_grad_()
    check([tokens, weight, bias], (3, 5), 1)


@pytest.mark.parametrize("dtype", LAST_PLACE)
@pytest.mark.parametrize("step", [(1, 2), (3, 1), 1.5, (2, 2.7), 4.0])
@pytest.mark.parametrize(("grid", "kernel_size"), [((5, 6), 3), ((1, 7), 5)])
def test_any_step_along_each_axis(step, grid, kernel_size, dtype):
    check(draw(grid, 1, kernel_size, dim=16, dtype=dtype), grid, 1, dilation=step)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16])
def test_weights_of_another_dtype(weight_dtype):
    tokens, weight, bias = draw((3, 5), 1, dtype=torch.bfloat16)
    with torch.no_grad():
        parameters = [weight.to(weight_dtype).requires_grad_(), bias.float().requires_grad_()]
    check([tokens, *parameters], (3, 5), 1)


def test_tokens_and_gradients_as_they_lie():
    tokens, weight, bias = draw((3, 5), 2, dim=24)
    larger = torch.randn(3, 20, 40, device=DEVICE)
    inside = larger[1:, 2:19, 8:32]  # every stride but the last is that of a larger tensor
    turned = torch.randn(2, 24, 17, device=DEVICE).transpose(1, 2)
    for laid in (inside, turned, tokens.detach()[:1].expand(2, -1, -1)):
        check([laid.detach().requires_grad_(), weight, bias], (3, 5), 2)
    for seed in (
        torch.ones((), device=DEVICE).expand(2, 17, 24),
        turned,
        inside,
        tokens.detach()[:, :1].expand_as(tokens),
    ):
        check([tokens, weight, bias], (3, 5), 2, seed=seed)
    every_other = torch.randn(24, 1, 6, 6, device=DEVICE)[:, :, ::2, ::2].requires_grad_()
    check([tokens, every_other, bias.detach()[:1].expand(24).requires_grad_()], (3, 5), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_kept_in_float32(dtype):
    # 256 + 1 is 256 in bfloat16 (2048 + 1 in float16), so sums kept in it would lose every 1 that follows
    large = 256.0 if dtype == torch.bfloat16 else 2048.0
    tokens = torch.ones(1, 9, 16, dtype=dtype, device=DEVICE)
    tokens[:, 0] = large
    ones = torch.ones(16, 1, 3, 3, dtype=dtype, device=DEVICE)
    found = ops.peg(tokens, ones, None, (3, 3), residual=False, form="fused")
    assert (found[0, 4] == large + 8).all()
    weight, bias = ones.clone().requires_grad_(), torch.zeros(16, dtype=dtype, device=DEVICE).requires_grad_()
    output = ops.peg(torch.ones_like(tokens), weight, bias, (3, 3), form="fused")
    to_weight, to_bias = torch.autograd.grad(output, (weight, bias), tokens)
    assert (to_weight[:, 0, 1, 1] == large + 8).all()
    assert (to_bias == large + 8).all()
    # the token itself, bias and encoding are rounded together, once
    bias = torch.full((16,), -large, dtype=dtype, device=DEVICE)
    tokens[:, 0], tokens[:, 4] = 1, large
    found = ops.peg(tokens, ones / 8, bias, (3, 3), form="fused")
    assert (found[0, 4] == large / 8 + 1).all()


@pytest.mark.parametrize(
    "asking", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_only_gradients_that_are_asked_for_are_computed(asking, monkeypatch):
    inputs = [each.detach().requires_grad_(asks) for each, asks in zip(draw((3, 5), 1), asking)]
    check(inputs, (3, 5), 1)
    runs, run = [], fused.run
    monkeypatch.setattr(fused, "run", lambda *args: runs.append((args[-2], args[-1] is not None)) or run(*args))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.shape) or each, lambda each: each):
        output = ops.peg(*inputs, (3, 5), 1, form="fused")
    assert (inputs[0].shape in kept) == asking[1]  # tokens are kept for the gradient of the weight alone
    runs.clear()
    output.sum().backward()
    assert runs == ([asking[:2]] if any(asking[:2]) else [])


def test_gradients_of_gradients():
    def double(*inputs, form):
        output = ops.peg(*inputs, (3, 4), 1, form=form)
        gradients = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(each.sin().sum() for each in gradients), inputs)

    inputs = draw((3, 4), 1)
    wide = [each.detach().double().requires_grad_() for each in inputs]
    for found, truth in zip(double(*inputs, form="fused"), double(*wide, form="dense")):
        torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-4 * truth.abs().max().item())


def test_every_run_gives_the_same():
    inputs = draw((5, 6), 1, dim=24)
    seed = torch.randn_like(inputs[0])
    runs = [differentiate(ops.peg, inputs, seed, (5, 6), 1, form="fused") for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_an_empty_batch_is_empty():
    inputs = draw((3, 5), 1, batch=0)
    output, *gradients = differentiate(ops.peg, inputs, torch.zeros_like(inputs[0]), (3, 5), 1, form="fused")
    assert output.shape == (0, 16, 3)
    assert all((each == 0).all() for each in gradients)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the checker's own
@pytest.mark.parametrize("bias", [True, False])
def test_the_operators_keep_pytorchs_rules(bias):
    tokens, weight, at_all = draw((3, 4), 1, batch=1)
    where = (3, 4, 1, True, [1, 2])
    torch.library.opcheck(fused._peg, (tokens, weight, at_all if bias else None, *where))
    gradient = torch.randn_like(tokens)
    torch.library.opcheck(fused._peg_backward, (gradient, tokens, weight, *where, True, bias))


def test_compile_makes_one_graph_for_all_sizes():
    layer = PEG(8).to(DEVICE)
    layer.form = "fused"
    torch._dynamo.reset()
    graphs = []
    aot = torch._dynamo.lookup_backend("aot_eager")
    compiled = torch.compile(
        lambda tokens, h, w: layer(tokens, (h, w), 1),
        backend=lambda graph, inputs: graphs.append(graph) or aot(graph, inputs),
        fullgraph=True,
        dynamic=True,
    )
    for batch, h, w in ((2, 3, 5), (3, 4, 2), (2, 5, 6)):
        tokens = torch.randn(batch, 1 + h * w, 8, device=DEVICE, requires_grad=True)
        asking = [tokens, *layer.parameters()]
        outputs = [run(tokens, *grid) for run, grid in ((compiled, (h, w)), (layer, ((h, w), 1)))]
        torch.testing.assert_close(*outputs)
        seed = torch.randn_like(outputs[0])
        for found, truth in zip(*(torch.autograd.grad(output, asking, seed) for output in outputs)):
            torch.testing.assert_close(found, truth)
    assert len(graphs) == 1


class OfAnySize(torch.nn.Module):
    """A PEG whose grid is that of the image (B, h, w, D)."""

    def __init__(self, form):
        super().__init__()
        self.layer = PEG(8)
        self.layer.form = form

    def forward(self, x):
        return self.layer(x.flatten(1, 2), (x.shape[1], x.shape[2]))


def exported(form):
    model = OfAnySize(form).to(DEVICE)
    free = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (torch.randn(2, 3, 5, 8, device=DEVICE),), dynamic_shapes={"x": free})
    larger = torch.randn(3, 4, 7, 8, device=DEVICE)
    torch.testing.assert_close(program.module()(larger), model(larger))
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_an_export_sees_one_operator_where_asked_and_none_of_ours_else():
    assert [name for name in exported("fused") if "cpvt" in name or "conv" in name] == ["cpvt.peg.default"]
    assert not [name for name in exported("auto") if "cpvt" in name]


def test_only_an_export_is_an_export():
    class Layer(torch.nn.Module):
        def forward(self, x):
            return x + 1 if fused.exporting() else x

    x = torch.zeros(2)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(Layer(), backend="eager", fullgraph=True)(x), x)
    for strict in (True, False):
        assert torch.equal(torch.export.export(Layer(), (x,), strict=strict).module()(x), x + 1)


@pytest.fixture
def asked(monkeypatch):
    """Whether the fused form was asked for, instead of running it."""
    calls = []
    monkeypatch.setattr(fused, "peg", lambda tokens, *rest: calls.append(rest) or tokens)
    return calls


def test_auto_is_dense_on_the_cpu(asked):
    ops.peg(torch.zeros(1, 15, 3), torch.zeros(3, 1, 3, 3), None, (3, 5))
    assert not asked


@pytest.mark.parametrize(
    ("fits", "dtype", "kernel", "how", "works"),
    [
        (True, torch.float32, (3, 3), {}, True),
        (True, torch.bfloat16, (7, 7), {"dilation": 2}, True),
        (True, torch.bfloat16, (3, 3), {"dilation": (1, 9.0)}, True),
        (True, torch.bfloat16, (3, 3), {"dilation": (2.7, 6)}, True),  # spread to 7 rows
        (False, torch.bfloat16, (3, 3), {"dilation": (2, 3.2)}, True),  # to 9 columns
        (False, torch.float32, (3, 3), {}, False),
        (False, torch.float64, (3, 3), {}, True),
        (False, torch.float32, (9, 9), {}, True),
        (False, torch.float32, (3, 3), {"padding_mode": "replicate"}, True),
        (False, torch.float32, (3, 3), {"causal": True}, True),
    ],
)
def test_auto_is_fused_on_a_gpu_where_it_can_be(fits, dtype, kernel, how, works, asked, monkeypatch):
    monkeypatch.setattr(fused, "works", lambda index: works)
    with FakeTensorMode():
        tokens = torch.empty(1, 15, 8, dtype=dtype, device="cuda")
        ops.peg(tokens, torch.empty(8, 1, *kernel, dtype=dtype, device="cuda"), None, (3, 5), **how)
        assert bool(asked) == fits
        monkeypatch.setattr(fused, "exporting", lambda: True)
        asked.clear()
        ops.peg(tokens, torch.empty(8, 1, *kernel, dtype=dtype, device="cuda"), None, (3, 5), **how)
    assert not asked


def test_a_gpu_that_triton_does_not_run_on_is_found_out_once(monkeypatch):
    monkeypatch.setattr(fused, "_TRIED", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    assert torch.version.hip or not fused.works(0)

    def fail(*anything, **named):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch, "randn", fail)
    with pytest.warns(UserWarning, match="by a convolution, as Triton does not work here: .*Failed to find C compiler"):
        assert not fused.works(1)
    assert not fused.works(1)  # without a second warning


def test_a_gpu_that_computes_something_else_is_found_out(monkeypatch):
    assert fused._difference(DEVICE) == ""
    healthy = fused.run

    def without_a_row(source, weight, *rest):
        return healthy(source, weight * (torch.arange(3, device=DEVICE) > 0)[:, None], *rest)

    monkeypatch.setattr(fused, "run", without_a_row)
    assert "a small case differs by" in fused._difference(DEVICE)


@pytest.mark.parametrize(
    ("tokens", "weight", "how", "message"),
    [
        ((1, 15, 3), (3, 1, 3), {"grid": (15,)}, r"is for grids \(h, w\); got a weight of 1 axes"),
        ((1, 15, 3), (3, 1, 3, 3, 3), {"grid": (1, 3, 5)}, r"is for grids \(h, w\); got a weight of 3 axes"),
        ((1, 15, 3), (3, 1, 3, 3), {"padding_mode": "circular"}, "knows padding_mode 'zeros' alone; got 'circular'"),
        ((1, 15, 3), (3, 1, 3, 3), {"causal": True}, "knows no causal kernels"),
        ((1, 15, 3), (3, 1, 2, 3), {}, r"\(D, 1, k, k\) with odd k; got \(3, 1, 2, 3\)"),
        ((1, 15, 3), (4, 1, 3, 3), {}, r"built for tokens of width 4; got tokens \(1, 15, 3\) of width 3"),
        ((1, 15, 3), (3, 1, 3, 3), {"bias": torch.zeros(2)}, r"3 channels needs a bias of as many; got \(2,\)"),
        ((1, 15, 3), (3, 1, 3, 3), {"form": "quick"}, "form must be one of auto, dense, fused; got 'quick'"),
        ((1, 16, 3), (3, 1, 3, 3), {}, r"3x5 grid needs tokens of shape \(B, 15, D\); got \(1, 16, 3\)"),
    ],
)
def test_what_the_fused_form_cannot_do_is_an_error(tokens, weight, how, message):
    how = {"bias": None, "grid": (3, 5), "form": "fused", **how}
    with pytest.raises(ValueError, match=message):
        ops.peg(torch.zeros(tokens, device=DEVICE), torch.zeros(weight, device=DEVICE), **how)


def test_where_the_fused_form_cannot_run_is_an_error(monkeypatch):
    tokens, weight = torch.zeros(1, 15, 3), torch.zeros(3, 1, 3, 3)
    with pytest.raises(ValueError, match="needs float32, bfloat16 or float16; got torch.float64"):
        ops.peg(tokens.double(), weight, None, (3, 5), form="fused")
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="needs tokens on a GPU, or on the CPU TRITON_INTERPRET=1 .*got cpu"):
        ops.peg(tokens, weight, None, (3, 5), form="fused")
    monkeypatch.setattr(forms, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="needs the package triton, which is not installed"):
        ops.peg(tokens, weight, None, (3, 5), form="fused")


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cpvt.ops import kernels

def compile(dtype, side, weigh, encode, channels, gaps=(1, 1)):
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    cut = kernels._cut(kind, side * side, (14, 14), channels, weigh, gaps)
    own = dict(KH=side, KW=side, DOWN=gaps[0], ACROSS=gaps[1], RESIDUAL=True, ENCODE=encode, WEIGH=weigh)
    own |= dict(TURNED=weigh, **cut._asdict())
    pointers = dict(source=dtype, taps="fp32", bias=not weigh and "fp32", encoded=encode and dtype)
    pointers |= dict(centre=weigh and dtype, sums=weigh and "fp32")
    names, warps = kernels._walk.arg_names, own.pop("num_warps")
    absent = {name: None for name, kind in pointers.items() if not kind}
    constants = {**own, **absent, **({"channels": 1} if channels == 1 else {})}
    steps = [name for name in names if channels % 16 == 0 and name.endswith(("_batch", "_token", "channels"))]
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *steps) if name not in constants}
    kinds = {name: "*" + pointers[name] if pointers.get(name) else "i32" for name in names}
    signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
    source = ASTSource(fn=kernels._walk, signature=signature, constexprs=constants, attrs=hints)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]

assert compile("bf16", 3, False, True, 384).count("ld.global.v4.b32") >= 16  # tokens of a halo, 16 bytes a thread
assert compile("fp32", 3, True, True, 192).count("ld.global.v4.b32") >= 20
compile("bf16", 3, True, False, 24)
compile("fp32", 3, False, True, 1)
assert compile("bf16", 3, False, True, 384, (5, 5)).count("ld.global.v4.b32") == 10  # of 9 taps and the prefix
compile("fp32", 3, True, True, 192, (1, 2))
"""


@pytest.mark.skipif(DEVICE == "cuda", reason="the tests above compile for this GPU")
def test_kernels_compile_for_gpus_and_read_16_bytes_at_once(tmp_path):
    # the interpreter knows less of types and constants than the compiler, which needs no GPU
    without = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**without, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
