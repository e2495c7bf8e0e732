"""The transformer block and its attention, which takes a rotation and a bias and stays within each image of a pack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings import PositionalEncoding
from cpvt.encodings.base import Pair, check_at_hand
from cpvt.grids import Layout
from cpvt.models.fastest import fastest, run_once
from cpvt.models.linear import apply_linear
from cpvt.models.scale import Temperature


class PackedBatch:
    """The images of a pack (1, T, D): where each begins and ends, and attention within each.

    A plain object, not a tuple: torch.compile would treat the contents of a tuple as constants.
    """

    def __init__(self, layout: Layout, device: torch.device, temperatures: Sequence[Temperature] = (None,)) -> None:
        lengths = torch.tensor(layout.lengths)
        # one for each group
        self.temperatures = [*temperatures] * (len(layout.groups) if len(temperatures) == 1 else 1)
        self.layout, self.longest = layout, max(layout.lengths)
        self.biases: Sequence[Tensor] = ()  # one for each group of equal grids, or none
        # (images + 1,): the first token of each image, and T
        self.offsets = F.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
        # (T,): the image that each token belongs to
        self.owner = torch.arange(len(lengths)).repeat_interleave(lengths, output_size=sum(layout.lengths)).to(device)

    def with_biases(self, biases: Sequence[Tensor]) -> PackedBatch:
        """The same images, with biases on their attention."""
        pack = copy(self)
        pack.biases = biases
        return pack

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # which grids are equal must not enter a graph
    def attend(self, query: Tensor, key: Tensor, value: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """Attention within each image, (1, heads, T, d) -> (1, T, D).

        logits: what is added to those of each group besides the biases, or nothing.
        """
        biases = add_biases(self.biases, logits)
        if not biases and _takes_varying_lengths(query):
            return self._attend_at_once(query, key, value)
        groups = (by_group(x, self.layout) for x in (query, key, value))
        parts = []
        for number, (q, k, v) in enumerate(zip(*groups)):  # each (images, heads, P + N, d)
            bias = biases[number].to(q.dtype) if biases else None
            parts.append(_attend(q, k, v, bias, self.temperatures[number]).flatten(0, 1))
        return torch.cat(parts)[None]

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """In one call of PyTorch's kernel for sequences of varying length, which takes no bias."""
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, d) each
        factors = self._factors(query)
        query = query if factors is None else query * factors
        x = varlen_attn(query, key, value, self.offsets, self.offsets, self.longest, self.longest)
        assert isinstance(x, Tensor)  # a pair only where more is asked for
        return x.flatten(1)[None]

    def _factors(self, query: Tensor) -> Tensor | None:
        """The temperature of each token, (T, 1, 1); None where all are 1."""
        by_image = [
            1.0 if temperature is None else temperature
            for temperature, group in zip(self.temperatures, self.layout.groups)
            for _ in range(group.images)
        ]
        if all(isinstance(each, float) and each == 1.0 for each in by_image):
            return None
        factors = torch.stack([torch.as_tensor(each, dtype=query.dtype, device=query.device) for each in by_image])
        return factors[self.owner, None, None]


def _takes_varying_lengths(query: Tensor) -> bool:
    """Whether PyTorch's varlen kernel runs here: half precision, an NVIDIA GPU from Ampere on, flash enabled."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or torch.version.hip is not None:
        return False
    flash = torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.is_flash_attention_available()
    fits = query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return flash and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


FEW = 128  # tokens, up to which two products and a softmax may beat PyTorch's fused kernel
STEP = 16  # tokens in a class of shapes


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, temperature: Temperature) -> Tensor:
    """Attention of (B, heads, P + N, d), heads concatenated again: (B, P + N, D); there may be fewer queries."""
    scale = None
    if isinstance(temperature, Tensor):  # in a graph, for which a number would be a constant
        query = query * temperature.to(query.device, query.dtype)
    elif temperature is not None:
        scale = temperature * query.shape[-1] ** -0.5
    attention = _attend_plainly if _is_faster_plain(query, key, bias) else F.scaled_dot_product_attention
    x = attention(query, key, value, attn_mask=bias, scale=scale)
    x = x.transpose(1, 2)  # (B, P + N, heads, d)
    if bias is not None:  # a copy: with a bias, exporters would record a view that their own kernel does not allow
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """What F.scaled_dot_product_attention computes, as two products and a softmax."""
    logits = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
    return (logits if attn_mask is None else logits + attn_mask).softmax(dim=-1) @ value


def _is_faster_plain(query: Tensor, key: Tensor, bias: Tensor | None) -> bool:
    """Whether the plain form is the faster one on this CPU, by measurement for the class of shapes."""
    if torch.onnx.is_in_onnx_export():  # which writes the fused kernel as more operations
        return True
    if not isinstance(query, Tensor) or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if torch._C._is_tracing():  # by torch.jit, for which sizes are tensors
        return False
    images, heads, queries, width = query.shape
    tokens = key.shape[2]
    if query.device.type != "cpu" or query.dtype != torch.float32 or tokens > FEW or not query.numel():
        return False
    learns = torch.is_grad_enabled() and query.requires_grad
    biased = "no bias" if bias is None else "learned bias" if learns and bias.requires_grad else "bias"
    shape = ((images * heads).bit_length(), -(-queries // STEP), -(-tokens // STEP), width, biased, learns)
    ways = {
        "fused": partial(_prepare, F.scaled_dot_product_attention, shape),
        "plain": partial(_prepare, _attend_plainly, shape),
    }
    return fastest("attention", shape, ways) == "plain"


def _prepare(attention: Callable[..., Tensor], shape: tuple[int, int, int, int, str, bool]) -> Callable[[], None]:
    count, rows, columns, width, biased, learns = shape
    images, queries, tokens = max(1, 3 * 2**count // 4), STEP * rows - STEP // 2, STEP * columns - STEP // 2
    like: Any = {"dtype": torch.float32, "device": "cpu"}
    inputs = [torch.full((images, 1, each, width), 0.1, **like) for each in (queries, tokens, tokens)]
    for each in inputs:
        each.requires_grad_(learns)
    if biased != "no bias":
        inputs.append(torch.zeros(1, 1, queries, tokens, **like).requires_grad_(biased == "learned bias"))
    return partial(run_once, attention, inputs)


def add_biases(biases: Sequence[Tensor], logits: Sequence[Tensor]) -> Sequence[Tensor]:
    """The sum of what is added to the logits of each group, where either may be empty."""
    return [each + bias for each, bias in zip(logits, biases)] if logits and biases else logits or biases


def widen_bias(bias: Tensor, prefix_tokens: int) -> Tensor:
    """A bias (..., N, N) with zeros for P prefix tokens; without any it is not copied."""
    return F.pad(bias, (prefix_tokens, 0, prefix_tokens, 0)) if prefix_tokens else bias


def by_group(x: Tensor, layout: Layout) -> list[Tensor]:
    """Queries, keys or values (B, heads, P + N, d) of each group of equal grids; of a pack, one batch for each."""
    if not layout.packed:
        return [x]
    return [part.transpose(1, 2) for part in layout.split(x.transpose(1, 2))]


def all_or_none(hook: str, returned: Sequence[Any]) -> list[Any]:
    """What a hook returned for the grids of a list, or nothing; ValueError where it returned None for some of them."""
    found = [each for each in returned if each is not None]
    if found and len(found) < len(returned):
        raise ValueError(f"the hook '{hook}' must return tensors for all grids of a list, or None for all")
    return found


class BlockHooks(NamedTuple):
    """The hooks of an encoding that need the queries or values of one block."""

    encoding: PositionalEncoding
    layout: Layout
    depth: int

    def query_biases(self, query: Tensor, temperatures: Sequence[Temperature]) -> list[Tensor]:
        """What is added to the logits of each group for its queries, (B, heads, P + N, P + N)."""
        prefix, asked = self.layout.prefix_tokens, []
        for part, (grid, scale, _), temperature in zip(by_group(query, self.layout), self.layout.groups, temperatures):
            factor = query.shape[-1] ** -0.5 * (1.0 if temperature is None else temperature)
            patches = (part[:, :, prefix:] * factor).to(part.dtype)
            asked.append(self.encoding.call_hook("query_bias", patches, grid, self.depth, scale=scale))
        return [widen_bias(bias, prefix) for bias in all_or_none("query_bias", asked)]

    def add_values(self, x: Tensor, value: Tensor) -> Tensor:
        """The output of attention x (B, P + N, D) with what the encoding makes of the values added to the patches."""
        prefix, asked = self.layout.prefix_tokens, []
        for part, (grid, scale, _) in zip(by_group(value, self.layout), self.layout.groups):
            patches = part[:, :, prefix:].transpose(1, 2).flatten(2)  # (B, N, D)
            asked.append(self.encoding.call_hook("value_encoding", patches, grid, self.depth, scale=scale))
        parts = [F.pad(added, (0, 0, prefix, 0)) for added in all_or_none("value_encoding", asked)]
        if not parts:
            return x
        if self.layout.packed:
            return x + torch.cat([part.flatten(0, 1) for part in parts])[None]
        return x + parts[0][:, : x.shape[1]]


class AttentionInputs(NamedTuple):
    """The positional inputs of attention, extended to P prefix tokens; `at_block` adds those of one block.

    temperature: the factor of the logits of a batch. In a pack each image has its own.
    """

    cos: Tensor | None = None  # (P + N, d) or (heads, P + N, d), of a pack T for P + N: rotates queries and keys
    sin: Tensor | None = None
    rotations: tuple[Pair, ...] = ()  # of each group of equal grids, where each block makes its own cos and sin of it
    bias: Tensor | None = None  # (1, heads, P + N, P + N): added to the logits of one block; zero for prefix tokens
    pack: PackedBatch | None = None  # which then holds the biases and temperatures
    temperature: Temperature = None
    hooks: BlockHooks | None = None  # where an encoding has any

    @classmethod
    def build(
        cls, encoding: PositionalEncoding, layout: Layout, x: Tensor, temperatures: Sequence[Temperature] = (None,)
    ) -> AttentionInputs:
        """What the encoding gives for all blocks, cast last to the dtype of the tokens x.

        temperatures: one for each group of the layout, or one for all.
        """
        groups = layout.groups if "rotation" in encoding.active_hooks else ()
        if isinstance(x, Tensor) and not x.is_meta:
            check_at_hand(encoding)
        asked = [encoding.call_hook("rotation", grid, x.device, scale=scale) for grid, scale, _ in groups]
        rotations = tuple(all_or_none("rotation", asked))
        pack = PackedBatch(layout, x.device, temperatures) if layout.packed else None
        inputs = cls(pack=pack, temperature=None if layout.packed else temperatures[0])
        if rotations and "block_rotation" in encoding.active_hooks:
            return inputs._replace(rotations=rotations)
        cos, sin = widen_rotations(rotations, layout, x.dtype)
        return inputs._replace(cos=cos, sin=sin)

    def at_block(self, encoding: PositionalEncoding, layout: Layout, depth: int, x: Tensor) -> AttentionInputs:
        """The same with what block `depth` (from 1) has of its own; computed only when that block runs."""
        inputs, hooks = self, encoding.active_hooks
        if self.rotations:
            own = [encoding.block_rotation(rotation, depth) for rotation in self.rotations]
            cos, sin = widen_rotations(own, layout, x.dtype)
            inputs = inputs._replace(cos=cos, sin=sin)
        if "bias" in hooks:
            prefix = layout.prefix_tokens
            placed = ((grid, {"scale": scale, "device": x.device}) for grid, scale, _ in layout.groups)
            asked = all_or_none("bias", [encoding.call_hook("bias", grid, depth, **more) for grid, more in placed])
            # four axes: with three, the CPU's fused kernel is not taken (measured 4 times slower at 577 tokens)
            biases = [widen_bias(bias, prefix).unsqueeze(0) for bias in asked]
            if biases and self.pack is None:
                inputs = inputs._replace(bias=biases[0])
            elif biases and self.pack is not None:
                inputs = inputs._replace(pack=self.pack.with_biases(biases))
        if "query_bias" in hooks or "value_encoding" in hooks:
            inputs = inputs._replace(hooks=BlockHooks(encoding, layout, depth))
        return inputs

    def query_biases(self, query: Tensor) -> Sequence[Tensor]:
        """What is added to the logits of each group for these queries (B, heads, P + N, d); empty for nothing."""
        if self.hooks is None or "query_bias" not in self.hooks.encoding.active_hooks:
            return ()
        return self.hooks.query_biases(query, [self.temperature] if self.pack is None else self.pack.temperatures)


def widen_rotations(
    rotations: Sequence[Pair], layout: Layout, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Cosine and sine of every token from those of the patches of each group; prefix tokens are not rotated."""
    if not rotations:
        return None, None
    prefix = layout.prefix_tokens
    cosines, sines = [], []
    for (cos, sin), group in zip(rotations, layout.groups):
        cosines += [F.pad(cos, (0, 0, prefix, 0), value=1.0).to(dtype)] * group.images
        sines += [F.pad(sin, (0, 0, prefix, 0)).to(dtype)] * group.images
    return torch.cat(cosines, dim=-2), torch.cat(sines, dim=-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + d / 2) of (B, heads, P + N, d) by angles: cos and sin, (P + N, d), also per head."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; in a pack, each image attends only to itself."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: AttentionInputs, read: int | None = None) -> Tensor:
        """Attention of tokens (B, P + N, D); of a batch, only the first `read` may be computed: (B, read, D)."""
        query, key, value, logits = self._heads(x, positions)
        if positions.pack is not None:
            x = positions.pack.attend(query, key, value, logits)
        else:
            bias = self._bias(positions, logits, query.dtype)
            bias = bias if bias is None else bias[..., :read, :]
            x = _attend(query[:, :, :read], key, value, bias, positions.temperature)
        if positions.hooks is not None and "value_encoding" in positions.hooks.encoding.active_hooks:
            x = positions.hooks.add_values(x, value)
        return apply_linear(self.proj, x)

    def weights(self, x: Tensor, positions: AttentionInputs) -> Tensor:
        """The attention weights, (B, heads, P + N, P + N), for inspection; `forward` never materialises them."""
        query, key, _, added = self._heads(x, positions)
        temperature = 1.0 if positions.temperature is None else positions.temperature
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 * temperature)
        bias = self._bias(positions, added, logits.dtype)
        return (logits if bias is None else logits + bias).softmax(dim=-1)

    def _heads(self, x: Tensor, positions: AttentionInputs) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """Rotated queries and keys, and values, (B, heads, P + N, d) each; and what is added to the logits for them."""
        qkv = apply_linear(self.qkv, x).unflatten(2, (3, self.num_heads, -1))  # (B, P + N, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, P + N, d) each
        logits = positions.query_biases(query)
        if positions.cos is not None and positions.sin is not None:
            query, key = rotate(query, positions.cos, positions.sin), rotate(key, positions.cos, positions.sin)
        return query, key, value, logits

    def _bias(self, positions: AttentionInputs, logits: Sequence[Tensor], dtype: torch.dtype) -> Tensor | None:
        """All that is added to the logits of a batch."""
        biases = add_biases([] if positions.bias is None else [positions.bias], logits)
        return biases[0].to(dtype) if biases else None


class DropPath(nn.Module):
    """Stochastic depth: in training drops a residual branch with this probability for each image and rescales others.

    As timm's, which drops per row of the batch and would treat a pack as one image.
    Source: Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, pack: PackedBatch | None = None) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        images = x.shape[0] if pack is None else pack.offsets.shape[0] - 1
        keep = 1.0 - self.drop_prob
        scale = x.new_empty(images, 1, 1).bernoulli_(keep).div_(keep or 1.0)
        return x * (scale if pack is None else scale.squeeze(2)[pack.owner])

    def extra_repr(self) -> str:
        return f"{self.drop_prob}"


class Mlp(nn.Module):
    """Two linear layers with GELU between, applied to each token."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(self.fc2, self.act(apply_linear(self.fc1, x)))


class Block(nn.Module):
    """One encoder block: attention, then an MLP, each after a norm and with a residual connection."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, positions: AttentionInputs, read: int | None = None) -> Tensor:
        """Tokens (B, P + N, D), or of a batch only the first `read`: for a last block whose others nobody reads."""
        more = () if read is None else (read,)  # for an attention of one's own
        x = x[:, :read] + self.drop_path(self.attn(self.norm1(x), positions, *more), positions.pack)
        return x + self.drop_path(self.mlp(self.norm2(x)), positions.pack)
