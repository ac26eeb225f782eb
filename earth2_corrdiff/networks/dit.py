# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The diffusion transformer (DiT) that newer CorrDiff checkpoints hold, with PhysicsNeMo's state-dict keys.

The architecture is that of Peebles and Xie (arXiv 2212.09748): patches become tokens, blocks of attention and
a multilayer perceptron are modulated by the noise level (adaLN-Zero), tokens become patches. Attention sees
all tokens (``timm``) or a window around each (``natten2d``), the latter also with rotary positions
(``natten2d_rope``, Su et al., arXiv 2104.09864). The arithmetic is that of ``physicsnemo.models.dit.DiT``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere in PyTorch code)

from earth2_corrdiff.base.errors import InputError
from earth2_corrdiff.networks.embeddings import NoiseEmbedding
from earth2_corrdiff.networks.kernels import cpu_norm
from earth2_corrdiff.networks.neighbourhood import neighbourhood_attention, pair

EPS = 1e-6
Map = Callable[[Tensor], Tensor]
ROWS, MOST_ROWS = {"cpu": 2048}, 2**14  # tokens at once, on other devices the latter


class Tokens(NamedTuple):
    """The grid of tokens of one call.

    Attributes
    ----------
    shape : tuple[int, int]
        (h, w)
    turns : Tensor | None
        Rotations of the tokens' queries and keys, ``[h, w, 1, dim / 2]`` complex
    """

    shape: tuple[int, int]
    turns: Tensor | None


class Linear(nn.Linear):
    """A linear layer that takes its input in the type of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class _GELU(nn.GELU):
    """GELU in its tanh form, written over its input where no gradient is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        own = x.is_cpu and x.is_contiguous() and not torch.is_grad_enabled()
        if own and not torch.compiler.is_compiling() and cpu_norm.supports_residual(x):
            return cpu_norm.gelu_(x)
        return F.gelu(x, approximate="tanh")


def modulated(x: Tensor, scale: Tensor, shift: Tensor, eps: float = EPS) -> Tensor:
    """``norm(x) (1 + scale) + shift``: ``x [B, L, D]``, the others ``[1 or B, D]``."""
    D = x.shape[-1]
    if len(scale) == 1:
        return F.layer_norm(x, (D,), 1 + scale[0], shift[0], eps)
    return torch.addcmul(shift[:, None], F.layer_norm(x, (D,), eps=eps), 1 + scale[:, None])


def in_parts(function: Map, x: Tensor) -> Tensor:
    """``function`` of tokens ``x [B, L, D]``, some at a time where no gradient is asked for."""
    rows = ROWS.get(x.device.type, MOST_ROWS)
    if torch.is_grad_enabled() or x.shape[1] <= rows:
        return function(x)
    first = function(x[:, :rows])
    whole = first.new_empty(*x.shape[:2], first.shape[-1])
    whole[:, :rows] = first
    for start in range(rows, x.shape[1], rows):
        whole[:, start : start + rows] = function(x[:, start : start + rows])
    return whole


# embeddings of the noise level and of a condition


class _TimeEmbedding(NoiseEmbedding):
    """Waves of t, and a perceptron of them."""

    mlp: nn.Module

    def forward(self, labels: Tensor) -> Tensor:
        return cast(Tensor, self.mlp(super().forward(labels)))


class DiTEmbedder(nn.Module):
    """``t [B], condition [B, K] → [B, D]``: an embedding of each, added."""

    def __init__(
        self,
        hidden: int,
        condition: int,
        max_positions: float = 10000,
        endpoint: bool = False,
        freq_embed_dim: int | None = None,
        mlp_hidden_dim: int | None = None,
        embed_fn: str = "cos_sin",
    ) -> None:
        super().__init__()
        waves, inside = freq_embed_dim or hidden, mlp_hidden_dim or 2 * hidden
        self.t_embedder = _TimeEmbedding(waves, max_positions, endpoint, embed_fn == "cos_sin")
        self.t_embedder.mlp = nn.Sequential(Linear(waves, inside), nn.SiLU(), Linear(inside, hidden))
        self.cond_embedder = Linear(condition, hidden, bias=False) if condition else None

    def forward(self, t: Tensor, condition: Tensor | None) -> Tensor:
        c: Tensor = self.t_embedder(t)
        return c if self.cond_embedder is None or condition is None else c + self.cond_embedder(condition)


class EDMEmbedder(nn.Module):
    """``t [B], condition [B, K] → [B, E]``: added before a common perceptron, as in EDM's U-Net."""

    def __init__(
        self,
        hidden: int,
        condition: int,
        emb_channels: int,
        noise_channels: int,
        condition_dropout: float = 0.0,
        legacy_condition_bias: bool = False,
        max_positions: float = 10000,
    ) -> None:
        super().__init__()
        if emb_channels != hidden:
            raise ValueError(f"emb_channels of {emb_channels} do not fit a hidden size of {hidden}")
        self.dropout = condition_dropout
        self.map_noise = NoiseEmbedding(noise_channels, max_positions)
        has_map = condition or legacy_condition_bias
        self.map_condition = Linear(condition, noise_channels) if has_map else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

    def forward(self, t: Tensor, condition: Tensor | None) -> Tensor:
        c = self.map_noise(t)
        if self.map_condition is not None and condition is not None:
            if self.training and self.dropout:  # of whole conditions, without a factor
                keep = torch.rand(len(condition), 1, device=condition.device) >= self.dropout
                condition = condition * keep
            c = c + self.map_condition(condition * self.map_condition.in_features**0.5)
        return cast(Tensor, self.map_layer1(F.silu(self.map_layer0(c))))


# attention


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def turns_of(shape: tuple[int, int], dim: int, theta: float, device: torch.device) -> Tensor:
    """Rotations by a token's position, ``[h, w, 1, dim / 2]`` complex: by the row, then by the column.

    Channels (2k, 2k + 1) of each half turn by ``theta ** (-4k / dim)`` per token.
    """
    half = dim // 2
    freqs = theta ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    rows, columns = (torch.arange(n, dtype=torch.float32, device=device)[:, None] * freqs for n in shape)
    h, w = shape
    angles = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1)
    return torch.complex(angles.cos(), angles.sin())[:, :, None]


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels of ``x [B, h, w, heads, dim]``, in float32 at least.

    Where the CPU's own kernel does it and no gradient is asked for, ``x`` is written over.
    """
    if not (torch.is_grad_enabled() or torch.compiler.is_compiling()) and cpu_norm.supports_turn(x):
        return cpu_norm.turn_(x, turns)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


Norm = Callable[[int], nn.Module]


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()


def _wide(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm in float32 at least."""
    if isinstance(norm, nn.Identity):
        return x
    return cast(Tensor, norm(x.to(torch.promote_types(x.dtype, torch.float32)))).to(x.dtype)


class SelfAttention(nn.Module):
    """Attention between all tokens, ``[B, L, D] → [B, L, D]``."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        drops: tuple[float, float],
        qkv_bias: bool = True,
        norm: Norm = _no_norm,
        last_norm: Norm = _no_norm,
    ) -> None:
        super().__init__()
        self.heads, (self.attn_drop, self.proj_drop) = heads, drops
        self.qkv = Linear(hidden, 3 * hidden, bias=qkv_bias)
        self.q_norm, self.k_norm = norm(hidden // heads), norm(hidden // heads)
        self.norm = last_norm(hidden)
        self.proj = Linear(hidden, hidden)

    def forward(self, x: Tensor, grid: Tokens, norm: Map) -> Tensor:
        """Attention of ``norm(x)``, without the whole of that."""
        y = self._attended(in_parts(lambda part: self.qkv(norm(part)), x), grid)
        y = self.proj(_wide(self.norm, y))
        return F.dropout(y, self.proj_drop, self.training)

    def _attended(self, qkv: Tensor, grid: Tokens) -> Tensor:
        q, k, v = qkv.view(*qkv.shape[:2], 3, self.heads, -1).unbind(2)  # [B, L, heads, dim]
        return self.attend(_wide(self.q_norm, q), _wide(self.k_norm, k), v, grid).flatten(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Tokens) -> Tensor:
        """``[B, L, heads, dim]``, four times."""
        dropout = self.attn_drop if self.training else 0.0
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)


class WindowAttention(SelfAttention):
    """Attention to a window of tokens around each: the layout ``natten2d``."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        drops: tuple[float, float],
        attn_kernel: int | tuple[int, int] = 3,
        na2d_kwargs: Mapping[str, Any] | None = None,
        use_mask_token: bool = False,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        norm_layer: str = "torch",
    ) -> None:
        norm = partial(nn.LayerNorm, eps=EPS, elementwise_affine=False) if qk_norm else _no_norm
        super().__init__(hidden, heads, drops, qkv_bias, norm)
        # for tokens without data, which no caller here has: kept, not used
        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden)) if use_mask_token else None
        self.kernel = pair(attn_kernel)
        self.dilation, self.scale = _window(**(na2d_kwargs or {}))

    @property
    def least(self) -> tuple[int, int]:
        """Tokens (h, w) that a window needs."""
        return self.kernel[0] * self.dilation[0], self.kernel[1] * self.dilation[1]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Tokens) -> Tensor:
        q, k, v = (part.view(len(q), *grid.shape, *q.shape[2:]) for part in (q, k, v))
        if grid.turns is not None:
            q, k = turned(q, grid.turns), turned(k, grid.turns)
        y = neighbourhood_attention(q, k, v, self.kernel, self.dilation, self.scale).flatten(1, 2)
        return F.dropout(y, self.attn_drop, self.training)


def _window(dilation: int | tuple[int, int] = 1, scale: float | None = None) -> Any:
    return pair(dilation), scale


class TimmAttention(nn.Module):
    """Attention between all tokens: the layout ``timm``."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        drops: tuple[float, float],
        qk_norm_type: str | None = None,
        qk_norm_affine: bool = True,
        scale_norm: bool = False,
    ) -> None:
        super().__init__()
        kinds: dict[str | None, Norm] = {
            None: _no_norm,
            "LayerNorm": partial(nn.LayerNorm, eps=1e-5, elementwise_affine=qk_norm_affine),
            "RMSNorm": partial(nn.RMSNorm, eps=1e-6, elementwise_affine=qk_norm_affine),
        }
        norm = kinds[qk_norm_type]
        last = norm if scale_norm else _no_norm
        self.attn_op = SelfAttention(hidden, heads, drops, norm=norm, last_norm=last)

    def forward(self, x: Tensor, grid: Tokens, norm: Map) -> Tensor:
        return cast(Tensor, self.attn_op(x, grid, norm))


# blocks, and the layers at both ends


class Block(nn.Module):
    """Attention and a perceptron, each modulated before and gated behind."""

    def __init__(
        self,
        hidden: int,
        attention: Callable[..., nn.Module],
        mlp_ratio: float,
        drop_path: float,
        norm_eps: float = EPS,
        intermediate_dropout: bool = False,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        mlp_drop_rate: float = 0.0,
        final_mlp_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.eps, self.drop_path = norm_eps, drop_path
        self.attention = attention(drops=(attn_drop_rate, proj_drop_rate))
        self.width = inside = int(hidden * mlp_ratio)
        drop = [nn.Dropout(mlp_drop_rate)] if mlp_drop_rate else []
        last = drop if final_mlp_dropout else []
        first: list[nn.Module] = [Linear(hidden, inside), _GELU("tanh"), *drop]
        self.linear = nn.ModuleDict({"layers": nn.Sequential(*first, Linear(inside, hidden), *last)})
        self.adaptive_modulation = _modulation(hidden, 6)

    def forward(self, x: Tensor, c: Tensor, grid: Tokens) -> Tensor:
        """``x [B, L, D]``, written over where no gradient is asked for; ``c [1 or B, E]`` after its SiLU."""
        parts = self.adaptive_modulation[1](c).to(x.dtype).chunk(6, dim=1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        norm = partial(modulated, scale=scale, shift=shift, eps=self.eps)
        x = self._gated(x, gate, self.attention(x, grid, norm))
        if torch.is_grad_enabled():
            return self._perceptron(x, mlp_scale, mlp_shift, mlp_gate)
        for part in torch.split(x, ROWS.get(x.device.type, MOST_ROWS), dim=1):  # less memory, warm caches
            self._perceptron(part, mlp_scale, mlp_shift, mlp_gate)
        return x

    def _perceptron(self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
        return self._gated(x, gate, self.linear["layers"](modulated(x, scale, shift, self.eps)))

    def _gated(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        gate = gate[:, None]
        if self.training and self.drop_path:  # whole samples
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            gate = gate * kept / (1 - self.drop_path)
        return torch.addcmul(x, gate, y) if torch.is_grad_enabled() else x.addcmul_(gate, y)


def _modulation(hidden: int, parts: int) -> nn.Sequential:
    """The SiLU is there for the keys: it is applied once for all blocks."""
    return nn.Sequential(nn.SiLU(), Linear(hidden, parts * hidden))


class Tokenizer(nn.Module):
    """``[B, C, H, W] → [B, h w, D]``: one token per patch, row by row."""

    def __init__(
        self, size: tuple[int, int], channels: int, hidden: int, patch: tuple[int, int], learnable: bool
    ) -> None:
        super().__init__()
        tokens = (size[0] // patch[0]) * (size[1] // patch[1])
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, hidden)) if learnable else None
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, hidden, patch, patch)})

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.x_embedder["proj"](x).flatten(2).transpose(1, 2).contiguous()
        return tokens if self.pos_embed is None else tokens + self.pos_embed


class Projection(nn.Module):
    """``[B, L, D] → [B, L, p q C]``: a modulated norm and a linear layer; shift comes before scale."""

    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.output_projection = Linear(hidden, out)
        self.adaptive_modulation = _modulation(hidden, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaptive_modulation[1](c).to(x.dtype).chunk(2, dim=1)
        return cast(Tensor, self.output_projection(modulated(x, scale, shift)))


class Detokenizer(nn.Module):
    """``[B, h w, D] → [B, C, H, W]``: the patch of each token."""

    def __init__(self, hidden: int, channels: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.width = patch, 0
        self.proj_layer = Projection(hidden, patch[0] * patch[1] * channels)

    def forward(self, x: Tensor, c: Tensor, grid: Tokens) -> Tensor:
        y: Tensor = self.proj_layer(x, c).view(len(x), *grid.shape, *self.patch, -1)
        return y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class ConvDetokenizer(nn.Module):
    """The same, and a residual of convolutions over the seams of the patches."""

    def __init__(
        self,
        hidden: int,
        channels: int,
        patch: tuple[int, int],
        conv_layers: int = 2,
        conv_hidden: int = 64,
        conv_kernel: int = 3,
    ) -> None:
        super().__init__()
        self.width = conv_hidden if conv_layers > 1 else channels
        self.proj = Detokenizer(hidden, channels, patch)
        widths = [channels, *[conv_hidden] * (conv_layers - 1), channels]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, conv_kernel, padding=conv_kernel // 2), nn.GELU()]
        self.conv_head = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, c: Tensor, grid: Tokens) -> Tensor:
        image = self.proj(x, c, grid)
        return cast(Tensor, image + self.conv_head(image))


# the network


class DiT(nn.Module):
    """``x [B, C, H, W], t [1 or B], condition [1 or B, K] → [B, C_out, H, W]``.

    Parameters
    ----------
    input_size, patch_size : int | tuple[int, int]
        (H, W) that it was built for, and of a token's patch
    in_channels, out_channels : int
        Of the images; latent and conditioning together are the input of a denoiser
    hidden_size, depth, num_heads, mlp_ratio : int, float
        Width of the tokens, blocks, heads of each attention, width of the perceptrons over that of the tokens
    attention_backend : {"timm", "natten2d", "natten2d_rope"}
        All tokens, or windows, without and with rotary positions
    condition_dim : int | None
        K
    conditioning_embedder : {"dit", "edm"}
        See :class:`DiTEmbedder`, :class:`EDMEmbedder`
    detokenizer : {"proj_reshape_2d", "proj_reshape_2d_conv"}
        See :class:`Detokenizer`, :class:`ConvDetokenizer`
    use_nan_mask_tokens : bool
        True if the weights of tokens without data are there
    drop_path_rates : Sequence[float] | None
        For training, of each block
    conditioning_embedder_kwargs, tokenizer_kwargs, detokenizer_kwargs, block_kwargs, attn_kwargs : Mapping
        Arguments of the parts, with PhysicsNeMo's names

    Raises
    ------
    KeyError, TypeError, ValueError
        If an argument is not known, or they do not fit each other
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        in_channels: int,
        patch_size: int | tuple[int, int] = 8,
        out_channels: int | None = None,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        attention_backend: str = "timm",
        condition_dim: int | None = None,
        conditioning_embedder: str = "dit",
        detokenizer: str = "proj_reshape_2d",
        use_nan_mask_tokens: bool = False,
        drop_path_rates: Sequence[float] | None = None,
        conditioning_embedder_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        detokenizer_kwargs: Mapping[str, Any] | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        attn_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden = hidden_size
        how = dict(attn_kwargs or {})
        self.input_size, self.patch_size = pair(input_size), pair(patch_size)
        self.in_channels, self.out_channels = in_channels, out_channels or in_channels
        self.condition_dim, self.head_dim = condition_dim or 0, hidden // num_heads
        rotary = attention_backend == "natten2d_rope"
        self.theta = float(how.pop("rope_theta", 10000.0)) if rotary else None
        self._check(hidden, num_heads)
        if use_nan_mask_tokens:
            how["use_mask_token"] = True
        embedder = partial(_EMBEDDERS[conditioning_embedder], hidden, self.condition_dim)
        head = partial(_DETOKENIZERS[detokenizer], hidden, self.out_channels, self.patch_size)
        attention = partial(_ATTENTIONS[attention_backend], hidden, num_heads, **how)
        learnable = _learnable(**(tokenizer_kwargs or {})) and not rotary
        self.tokenizer = Tokenizer(self.input_size, in_channels, hidden, self.patch_size, learnable)
        self.conditioning_embedder = embedder(**(conditioning_embedder_kwargs or {}))
        rates = [0.0] * depth if drop_path_rates is None else drop_path_rates
        if len(rates) != depth:
            raise ValueError(f"{len(rates)} drop_path_rates do not fit {depth} blocks")
        more = block_kwargs or {}
        self.blocks = nn.ModuleList(Block(hidden, attention, mlp_ratio, rate, **more) for rate in rates)
        self.detokenizer = head(**(detokenizer_kwargs or {}))
        last = len(getattr(self.detokenizer, "conv_head", ())) - 1
        self._last_layer = f"conv_head.{last}."
        if not next(self.parameters()).is_meta:  # there PyTorch imports its compiler
            self.initialise()

    def _check(self, hidden: int, heads: int) -> None:
        if hidden % heads or (self.theta is not None and self.head_dim % 4):
            raise ValueError(f"a hidden size of {hidden} does not divide into {heads} heads")
        if any(n % p for n, p in zip(self.input_size, self.patch_size, strict=True)):
            raise ValueError(f"an input size of {self.input_size} is no multiple of {self.patch_size}")

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights to begin a training with: each block and the output do nothing."""
        zero = ("adaptive_modulation.1.", "output_projection.", self._last_layer)
        for name, value in self.named_parameters():
            if name.endswith("bias") or name.endswith("mask_token") or any(part in name for part in zero):
                value.zero_()
            elif name.endswith("pos_embed"):
                value.normal_(std=0.02)
            elif "norm" not in name and "conv_head" not in name:
                nn.init.xavier_uniform_(value.flatten(1))

    @property
    def window(self) -> tuple[int, int] | None:
        """Tokens (h, w) that a window of the attention needs; None where it sees all."""
        attention = self.blocks[0].attention
        return attention.least if isinstance(attention, WindowAttention) else None

    def shape_fault(self, shape: tuple[int, int]) -> str | None:
        """The reason why images of this (H, W) are not possible, or None."""
        if shape != self.input_size and (self.tokenizer.pos_embed is not None or self.window is None):
            return "is made for {} x {}".format(*self.input_size)
        if any(n % p for n, p in zip(shape, self.patch_size, strict=True)):
            return "asks for multiples of {} x {}".format(*self.patch_size)
        least = [n * p for n, p in zip(self.window or (1, 1), self.patch_size, strict=True)]
        if shape[0] < least[0] or shape[1] < least[1]:
            return "asks for {} x {} or more".format(*least)
        return None

    def products(self) -> list[Linear]:
        """The linear layers of all tokens inside the blocks: nearly all of the work."""
        parts = (part for block in cast(list[Block], self.blocks) for part in (block.attention, block.linear))
        return [module for part in parts for module in part.modules() if isinstance(module, Linear)]

    def cast(self, dtype: torch.dtype) -> None:
        """Run the products in a type; all else stays float32."""
        for module in self.products():
            module.to(dtype)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The image that the network makes.

        Raises
        ------
        InputError
            If images of this size, or the lack of a condition, are not possible
        """
        fault = self.shape_fault((x.shape[-2], x.shape[-1]))
        if fault is not None:
            raise InputError(f"the network {fault}, not for {x.shape[-2]} x {x.shape[-1]}")
        h, w = (n // p for n, p in zip(x.shape[-2:], self.patch_size, strict=True))
        turns = None if self.theta is None else turns_of((h, w), self.head_dim, self.theta, x.device)
        grid = Tokens((h, w), turns)
        tokens = self.tokenizer(x).to(x.dtype)  # in a training, autocast has others
        c = F.silu(self.conditioning_embedder(t, condition))
        for block in self.blocks:
            tokens = block(tokens, c, grid)
        return cast(Tensor, self.detokenizer(tokens, c, grid))


_EMBEDDERS: dict[str, Callable[..., nn.Module]] = {"dit": DiTEmbedder, "edm": EDMEmbedder}
_ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "timm": TimmAttention,
    "natten2d": WindowAttention,
    "natten2d_rope": WindowAttention,
}
_DETOKENIZERS: dict[str, Callable[..., nn.Module]] = {
    "proj_reshape_2d": Detokenizer,
    "proj_reshape_2d_conv": ConvDetokenizer,
}


def _learnable(pos_embed: str = "learnable") -> bool:
    return pos_embed == "learnable"
