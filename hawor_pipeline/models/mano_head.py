"""Transformer decoder from image tokens to MANO parameters and a camera.

One query token passes through self-attention, cross-attention to the tokens and a feed-forward layer per level; three
linear layers predict pose (6D rotations by columns), shape and camera as offsets from a mean. In the released network
the query starts at zero (`query="zero"`); with `query="grid"` it starts from a projection of all image tokens, which a
small network without pretraining needs to learn quickly.

A single query allows two shortcuts without effect on the result: it can only attend to itself, so self-attention is its
value; and no keys and values per image token are needed, because the projections can be moved to the side of the query:
(W_k c) . q = c . (W_k' q), and sum a_l W_v c_l = W_v sum a_l c_l.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hawor_pipeline.models.layers import FeedForward

POSE_SIZE = 16 * 6
BETAS = 10
CAMERA = 3
HEAD_DIM = 64
INITIAL_GAIN = 0.01


class QuerySelfAttention(nn.Module):
    """Self-attention of one token: the softmax over one entry is 1, so only the value matters.

    The rows for query and key exist because released networks have them; their gradient is zero.
    """

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.query_key_value = nn.Linear(dim, 3 * inner, bias=False)
        self.output = nn.Linear(inner, dim)

    def forward(self, query: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Transform one token per image."""
        return self.output(nn.functional.linear(query, self.query_key_value.weight.chunk(3)[2]))


class CrossAttention(nn.Module):
    """Attention of one token per image to the image tokens, which are not normalised."""

    def __init__(self, dim: int, inner: int, context_dim: int):
        super().__init__()
        self.key_value = nn.Linear(context_dim, 2 * inner, bias=False)
        self.query = nn.Linear(dim, inner, bias=False)
        self.output = nn.Linear(inner, dim)

    def forward(self, query: Float[Tensor, "N C"], context: Float[Tensor, "N L D"]) -> Float[Tensor, "N C"]:
        """Transform one token per image."""
        for_key, for_value = self.key_value.weight.view(2, -1, HEAD_DIM, context.shape[-1])  # (heads, head_dim, D)
        # The projections are applied to one query instead of L tokens: L times less work, and no (N, L, inner) tensors.
        queries = self.query(query).unflatten(-1, (-1, HEAD_DIM))  # (N, heads, head_dim)
        queries = torch.einsum("nhd,hdc->nhc", queries, for_key) * HEAD_DIM**-0.5
        weights = torch.softmax(queries @ context.transpose(1, 2), dim=-1)  # (N, heads, L)
        mixed = weights.to(context.dtype) @ context  # (N, heads, D)
        return self.output(torch.einsum("nhc,hdc->nhd", mixed, for_value).flatten(1))


class DecoderLayer(nn.Module):
    """Decoder level: self-attention, cross-attention and feed-forward, each after a LayerNorm and with a residual."""

    def __init__(self, dim: int, inner: int, context_dim: int, feedforward: int):
        super().__init__()
        self.self_attention_norm = nn.LayerNorm(dim)
        self.self_attention = QuerySelfAttention(dim, inner)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, inner, context_dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward)

    def forward(self, query: Float[Tensor, "N C"], context: Float[Tensor, "N L D"]) -> Float[Tensor, "N C"]:
        """Transform one token per image."""
        query = query + self.self_attention(self.self_attention_norm(query))
        query = query + self.cross_attention(self.cross_attention_norm(query), context)
        return query + self.feedforward(query, self.feedforward_norm)


class ManoHead(nn.Module):
    """Prediction head for pose, shape and camera from the tokens of an image.

    Args:
        context_dim: width of the tokens.
        tokens: number of tokens (used by `query="grid"` only).
        dim, depth, heads, feedforward: of the decoder.
        query: "zero" (released network) or "grid".
    """

    mean_pose: Tensor
    mean_betas: Tensor
    mean_camera: Tensor

    def __init__(
        self,
        context_dim: int,
        tokens: int,
        dim: int,
        depth: int,
        heads: int = 8,
        feedforward: int = 1024,
        query: str = "zero",
    ):
        super().__init__()
        self.query = query
        self.query_embedding = nn.Linear(tokens * context_dim if query == "grid" else 1, dim)
        self.query_position = nn.Parameter(torch.randn(1, 1, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads * HEAD_DIM, context_dim, feedforward) for _ in range(depth))
        self.pose_output = nn.Linear(dim, POSE_SIZE)
        self.betas_output = nn.Linear(dim, BETAS)
        self.camera_output = nn.Linear(dim, CAMERA)
        for layer in (self.pose_output, self.betas_output, self.camera_output):
            nn.init.xavier_uniform_(layer.weight, gain=INITIAL_GAIN)
            nn.init.zeros_(layer.bias)
        identity_columns = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        self.register_buffer("mean_pose", identity_columns.repeat(16)[None])  # (1, 96)
        self.register_buffer("mean_betas", torch.zeros(1, BETAS))
        self.register_buffer("mean_camera", torch.tensor([[9.0, 0.0, 0.0]]))  # 1/m: a box of 0.22 m at the hand

    def set_mean(self, pose_6d: Float[Tensor, "96"], betas: Float[Tensor, "10"], camera: Float[Tensor, "3"]) -> None:
        """Set the mean that the head predicts offsets from (pose as 6D by columns)."""
        for buffer, value in ((self.mean_pose, pose_6d), (self.mean_betas, betas), (self.mean_camera, camera)):
            buffer.copy_(value[None])

    def forward(
        self, tokens: Float[Tensor, "N L C"]
    ) -> tuple[Float[Tensor, "N 96"], Float[Tensor, "N 10"], Float[Tensor, "N 3"]]:
        """Predict (6D pose by columns, betas, camera (s, tx, ty)) from tokens."""
        start = tokens.flatten(1) if self.query == "grid" else tokens.new_zeros(tokens.shape[0], 1)
        query = self.query_embedding(start) + self.query_position[0]  # (N, dim)
        for layer in self.layers:
            query = layer(query, tokens)
        # Three small layers in full precision: half precision would cost millimetres.
        with torch.autocast(tokens.device.type, enabled=False):
            query = query.to(self.mean_pose.dtype)
            return (
                self.pose_output(query) + self.mean_pose,
                self.betas_output(query) + self.mean_betas,
                self.camera_output(query) + self.mean_camera,
            )
