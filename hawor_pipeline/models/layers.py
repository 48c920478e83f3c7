"""Building blocks of the transformers, with few activations kept for the backward pass.

A linear layer keeps its input, and so do LayerNorm and GELU: in a transformer block nearly half of the activations can
be recomputed from the other half at almost no cost. `norm_linear` and `gelu_linear` keep only the input of the cheap
layer. Attention is scaled-dot-product attention without the matrix of weights.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CPU_TOKENS = 2048  # per part: the recomputed activations then stay in the cache


def norm_linear(tokens: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """Compute `linear(norm(tokens))`; the backward pass keeps only the tokens and their mean and spread."""
    if torch.compiler.is_compiling():  # the compiler recomputes by itself, and fuses more
        return linear(norm(tokens))
    return _NormLinear.apply(tokens, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)


def gelu_linear(hidden: Tensor, linear: nn.Linear) -> Tensor:
    """Compute `linear(gelu(hidden))` with the exact GELU; the backward pass keeps only `hidden`."""
    if torch.compiler.is_compiling():
        return linear(F.gelu(hidden))
    return _GeluLinear.apply(hidden, linear.weight, linear.bias)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        normed, mean, spread = torch.native_layer_norm(tokens, tokens.shape[-1:], scale, shift, eps)
        ctx.save_for_backward(tokens, mean, spread, scale, shift, weight)
        ctx.eps = eps
        return F.linear(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tokens, mean, spread, scale, shift, weight = ctx.saved_tensors
        by_weight = by_bias = None
        if ctx.needs_input_grad[4]:
            normed = F.layer_norm(tokens, tokens.shape[-1:], scale, shift, ctx.eps)
            by_weight, by_bias = _linear_gradients(gradient, normed, weight, ctx.needs_input_grad[5])
            del normed  # before the next product, which needs as much memory
        by_normed = (gradient @ weight.to(gradient.dtype)).to(tokens.dtype)
        wanted = [ctx.needs_input_grad[index] for index in (0, 1, 2)]
        by_tokens, by_scale, by_shift = torch.ops.aten.native_layer_norm_backward(
            by_normed, tokens, tokens.shape[-1:], mean, spread, scale, shift, wanted
        )
        return by_tokens, by_scale, by_shift, None, by_weight, by_bias


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        parts = [F.linear(F.gelu(part), weight, bias) for part in in_parts(hidden.flatten(0, -2))]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unflatten(0, hidden.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        rows, by_out = hidden.flatten(0, -2), gradient.flatten(0, -2)
        by_weight = by_bias = by_hidden = None
        if ctx.needs_input_grad[1]:
            total = torch.zeros_like(weight, dtype=by_out.dtype)
            for out, part in zip(in_parts(by_out), in_parts(rows), strict=True):
                total.addmm_(out.T, F.gelu(part).to(out.dtype))
            by_weight = total.to(weight.dtype)
            by_bias = by_out.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        if ctx.needs_input_grad[0]:
            by_hidden = (by_out @ weight.to(by_out.dtype)).to(hidden.dtype)
            torch.ops.aten.gelu_backward.grad_input(by_hidden, rows, grad_input=by_hidden)  # in place: no third copy
            by_hidden = by_hidden.unflatten(0, hidden.shape[:-1])
        return by_hidden, by_weight, by_bias


def in_parts(rows: Tensor, tokens_per_row: int = 1) -> tuple[Tensor, ...]:
    """Split rows into parts of a few thousand tokens on the CPU, so that recomputed activations stay in the cache."""
    return rows.split(max(CPU_TOKENS // tokens_per_row, 1)) if rows.device.type == "cpu" else (rows,)


def _linear_gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute the gradients of a linear layer's weight and bias, in the weight's own type also under autocast."""
    rows = gradient.flatten(0, -2)  # (tokens, C_out)
    by_weight = rows.T @ inputs.flatten(0, -2).to(gradient.dtype)
    return by_weight.to(weight.dtype), rows.sum(0).to(weight.dtype) if with_bias else None


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: width of the tokens.
        heads: number of heads; `dim` is a multiple of it.
        dropout: of the attention weights while training.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "N L C"], norm: nn.LayerNorm | None = None) -> Float[Tensor, "N L C"]:
        """Transform tokens; `norm` normalises them first."""
        n, length, dim = tokens.shape
        packed = self.query_key_value(tokens) if norm is None else norm_linear(tokens, norm, self.query_key_value)
        query, key, value = packed.view(n, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(  # (N, heads, L, head_dim)
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(mixed.transpose(1, 2).reshape(n, length, dim))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        dim: width of the tokens.
        hidden: width between the layers.
        dropout: after the GELU while training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "N L C"], norm: nn.LayerNorm | None = None) -> Float[Tensor, "N L C"]:
        """Transform tokens; `norm` normalises them first."""
        hidden = self.expand(tokens) if norm is None else norm_linear(tokens, norm, self.expand)
        if self.training and self.dropout > 0.0:  # recomputing would need the same random mask again
            return self.contract(F.dropout(F.gelu(hidden), self.dropout))
        return gelu_linear(hidden, self.contract)
