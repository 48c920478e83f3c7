"""Attention over the frames of a clip: on image features, and on poses.

Both modules have one form: a linear layer in, sinusoidal positions, a post-norm transformer over time, a linear layer
out. The image module adds its output to the features; the pose module of the released network replaces the pose by its
output, and of a network trained here adds to it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

HEADS = 4
STORED_POSITIONS = 100  # rows of the table in released checkpoints; longer clips compute theirs
INITIAL_GAIN = 0.01


def sinusoidal_positions(length: int, dim: int) -> Float[Tensor, "L 1 C"]:
    """Sine and cosine position table of the original transformer (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, 1, dim)
    table[:, 0, 0::2] = torch.sin(position * rate)
    table[:, 0, 1::2] = torch.cos(position * rate)
    return table


class PositionalEncoding(nn.Module):
    """Adds the position in the clip to each frame."""

    pe: Tensor

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("pe", sinusoidal_positions(STORED_POSITIONS, dim))

    def forward(self, frames: Float[Tensor, "T N C"]) -> Float[Tensor, "T N C"]:
        """Frames first."""
        length = frames.shape[0]
        table = self.pe
        if length > table.shape[0]:
            table = sinusoidal_positions(length, table.shape[-1]).to(table)
        return self.dropout(frames + table[:length])


class TemporalAttention(nn.Module):
    """Attention over time for N independent tracks.

    Args:
        in_dim: width of a frame, box information included.
        out_dim: width of the output; the residual is onto the first `out_dim` channels of the input.
        hidden: width inside.
        layers: depth.
        residual: add the input (then the last layer starts at zero: a new module changes nothing at first).
        feedforward: width of the feed-forward layers.
        dropout: of positions and layers.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden: int, layers: int, *, residual: bool, feedforward: int, dropout: float
    ):
        super().__init__()
        self.out_dim = out_dim
        self.residual = residual
        self.l1 = nn.Linear(in_dim, hidden)
        self.l2 = nn.Linear(hidden, out_dim)
        self.pos_embedding = PositionalEncoding(hidden, dropout)
        layer = nn.TransformerEncoderLayer(hidden, HEADS, feedforward, dropout, activation="gelu")
        self.trans = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        if residual:
            nn.init.zeros_(self.l2.weight)
        else:
            nn.init.xavier_uniform_(self.l2.weight, gain=INITIAL_GAIN)
        nn.init.zeros_(self.l2.bias)

    def forward(self, frames: Float[Tensor, "N T C_in"]) -> Float[Tensor, "N T C_out"]:
        """Tracks of frames to tracks of frames."""
        hidden = self.pos_embedding(self.l1(frames).transpose(0, 1))  # (T, N, hidden)
        update = self.l2(self.trans(hidden)).transpose(0, 1)  # (N, T, C_out)
        return frames[..., : self.out_dim] + update if self.residual else update
