"""Attention over the frames of a clip, on image features and on poses.

Both modules have the same form: a linear layer in, sinusoidal positions, a post-norm transformer over time, a linear
layer out. The image module adds its output to the features. The pose module of the released network replaces the pose
by its output; that of a network trained here adds to it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hawor_pipeline.models.layers import Attention, FeedForward, in_parts

HEADS = 4
STORED_POSITIONS = 100  # rows of the table in released checkpoints; longer clips compute their own
INITIAL_GAIN = 0.01


def sinusoidal_positions(length: int, dim: int) -> Float[Tensor, "L C"]:
    """Compute the sine and cosine position table of the original transformer (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


class TemporalLayer(nn.Module):
    """Post-norm transformer layer with the formula and initial weights of `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, dim: int, feedforward: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        # The weights drawn here are replaced below; the fork keeps them from advancing the random generator.
        with torch.random.fork_rng(devices=[]):
            self.attention = Attention(dim, HEADS, dropout)
            self.attention_norm = nn.LayerNorm(dim)
            self.feedforward = FeedForward(dim, feedforward, dropout)
            self.feedforward_norm = nn.LayerNorm(dim)
        self.attention.output.reset_parameters()
        nn.init.zeros_(self.attention.output.bias)
        nn.init.xavier_uniform_(self.attention.query_key_value.weight)
        nn.init.zeros_(self.attention.query_key_value.bias)
        self.feedforward.expand.reset_parameters()
        self.feedforward.contract.reset_parameters()

    def forward(self, frames: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
        """Transform tracks of frames."""
        frames = self.attention_norm(frames + self._dropped(self.attention(frames)))
        return self.feedforward_norm(frames + self._dropped(self.feedforward(frames)))

    def _dropped(self, update: Tensor) -> Tensor:
        return F.dropout(update, self.dropout, self.training)


class TemporalAttention(nn.Module):
    """Attention over time for tracks of features, with the position of each frame's bounding box as input.

    Args:
        dim: width of the features, in and out.
        where_dim: width of the box encoding.
        hidden: width inside.
        layers: depth.
        residual: add the input; the last layer then starts at zero, so a new module is the identity.
        feedforward: width of the feed-forward layers.
        dropout: of positions and layers.
    """

    positions: Tensor

    def __init__(
        self, dim: int, where_dim: int, hidden: int, layers: int, *, residual: bool, feedforward: int, dropout: float
    ):
        super().__init__()
        self.dims = (dim, where_dim)
        self.residual = residual
        self.dropout = dropout
        self.recompute = False  # recompute the activations of the layers in the backward pass
        self.input = nn.Linear(dim + where_dim, hidden)
        self.output = nn.Linear(hidden, dim)
        self.register_buffer("positions", sinusoidal_positions(STORED_POSITIONS, hidden))
        self.layers = nn.ModuleList(TemporalLayer(hidden, feedforward, dropout) for _ in range(layers))
        if residual:
            nn.init.zeros_(self.output.weight)
        else:
            nn.init.xavier_uniform_(self.output.weight, gain=INITIAL_GAIN)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Float[Tensor, "B T K C"], where: Float[Tensor, "B T W"]) -> Float[Tensor, "B T K C"]:
        """Transform K tracks of features per clip; all tracks of a clip share its box encoding."""
        clips, frames, tracks, _ = features.shape
        # All tracks share the box encoding, so its part of the first layer is computed once, not K times.
        for_features, for_where = self.input.weight.split(self.dims, dim=1)
        at = F.linear(where.to(features.dtype), for_where, self.input.bias)[:, :, None]
        hidden = F.linear(features, for_features) + at
        hidden = hidden.transpose(1, 2).reshape(clips * tracks, frames, -1)  # (B*K, T, hidden)
        hidden = F.dropout(hidden + self._positions(frames).to(hidden.dtype), self.dropout, self.training)
        for layer in self.layers:
            if self.recompute and self.training:
                parts = [checkpoint(layer, part, use_reentrant=False) for part in in_parts(hidden, frames)]
                hidden = parts[0] if len(parts) == 1 else torch.cat(parts)
            else:
                hidden = layer(hidden)
        hidden = hidden.view(clips, tracks, frames, -1).transpose(1, 2)  # (B, T, K, hidden)
        update = self.output(hidden)
        return features + update if self.residual else update

    def _positions(self, frames: int) -> Float[Tensor, "T C"]:
        if frames > self.positions.shape[0]:
            return sinusoidal_positions(frames, self.positions.shape[1]).to(self.positions)
        return self.positions[:frames]
