"""The transformer decoder that reads MANO parameters and a camera off the image tokens.

Parameter names are HaMeR's. One query token passes through self-attention, cross-attention to the tokens and a
feed-forward layer per level; three linear layers read pose (6D rotations by columns), shape and camera as offsets from
a mean. In the released network the query starts from nothing (`query="zero"`); with `query="grid"` it starts from a
projection of all image tokens at once, which a small network without pretraining needs to learn quickly.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

POSE_SIZE = 16 * 6
BETAS = 10
CAMERA = 3
INITIAL_GAIN = 0.01


class DecoderAttention(nn.Module):
    """Self-attention (context None) or cross-attention in HaMeR's parameter layout."""

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int | None = None):
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        if context_dim is None:
            self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        else:
            self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
            self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim))

    def forward(self, query: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, Q, dim) attends to itself or to the context (N, L, context_dim)."""
        if context is None:
            parts = self.to_qkv(query).chunk(3, dim=-1)
        else:
            parts = (self.to_q(query), *self.to_kv(context).chunk(2, dim=-1))
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]  # (N, heads, ., head_dim)
        mixed = F.scaled_dot_product_attention(*heads)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU; `net` keeps the indices of the released names."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim), nn.Identity()
        )

    def forward(self, query: Tensor) -> Tensor:
        """(N, Q, dim) to the same."""
        return self.net(query)


class PreNorm(nn.Module):
    """A layer behind a LayerNorm of its query; the context is not normalised."""

    def __init__(self, dim: int, layer: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = layer

    def forward(self, query: Tensor, *context: Tensor) -> Tensor:
        """(N, Q, dim) to the same."""
        return self.fn(self.norm(query), *context)


class DecoderStack(nn.Module):
    """Levels of self-attention, cross-attention and feed-forward, each with a residual; no final norm."""

    def __init__(self, dim: int, depth: int, heads: int, head_dim: int, feedforward: int, context_dim: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    PreNorm(dim, DecoderAttention(dim, heads, head_dim)),
                    PreNorm(dim, DecoderAttention(dim, heads, head_dim, context_dim)),
                    PreNorm(dim, FeedForward(dim, feedforward)),
                )
            )
            for _ in range(depth)
        )

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """(N, Q, dim) to the same."""
        for self_attention, cross_attention, feedforward in self.layers:  # type: ignore[misc]
            query = query + self_attention(query)  # type: ignore[has-type]
            query = query + cross_attention(query, context)  # type: ignore[has-type]
            query = query + feedforward(query)  # type: ignore[has-type]
        return query


class TransformerDecoder(nn.Module):
    """Embeds the query token, adds its position and runs the stack."""

    def __init__(self, token_dim: int, dim: int, **stack: int):
        super().__init__()
        self.to_token_embedding = nn.Linear(token_dim, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = DecoderStack(dim, **stack)

    def forward(self, token: Tensor, context: Tensor) -> Tensor:
        """(N, 1, token_dim) and (N, L, context_dim) to (N, 1, dim)."""
        return self.transformer(self.to_token_embedding(token) + self.pos_embedding, context)


class ManoHead(nn.Module):
    """Reads pose, shape and camera off the tokens of a picture.

    Args:
        context_dim: width of the tokens.
        tokens: how many there are (used by `query="grid"` only).
        dim, depth, heads, head_dim, feedforward: of the decoder.
        query: "zero" (released network) or "grid".
    """

    init_hand_pose: Tensor
    init_betas: Tensor
    init_cam: Tensor

    def __init__(
        self,
        context_dim: int,
        tokens: int,
        dim: int,
        depth: int,
        heads: int = 8,
        head_dim: int = 64,
        feedforward: int = 1024,
        query: str = "zero",
    ):
        super().__init__()
        self.query = query
        self.transformer = TransformerDecoder(
            tokens * context_dim if query == "grid" else 1,
            dim,
            depth=depth,
            heads=heads,
            head_dim=head_dim,
            feedforward=feedforward,
            context_dim=context_dim,
        )
        self.decpose = nn.Linear(dim, POSE_SIZE)
        self.decshape = nn.Linear(dim, BETAS)
        self.deccam = nn.Linear(dim, CAMERA)
        for layer in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(layer.weight, gain=INITIAL_GAIN)
            nn.init.zeros_(layer.bias)
        identity_columns = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        self.register_buffer("init_hand_pose", identity_columns.repeat(16)[None])  # (1, 96)
        self.register_buffer("init_betas", torch.zeros(1, BETAS))
        self.register_buffer("init_cam", torch.tensor([[9.0, 0.0, 0.0]]))

    def set_mean(self, pose_6d: Float[Tensor, "96"], betas: Float[Tensor, "10"], camera: Float[Tensor, "3"]) -> None:
        """Set the parameters that the head predicts offsets from (pose as 6D by columns)."""
        for buffer, value in ((self.init_hand_pose, pose_6d), (self.init_betas, betas), (self.init_cam, camera)):
            buffer.copy_(value[None])

    def forward(
        self, tokens: Float[Tensor, "N L C"]
    ) -> tuple[Float[Tensor, "N 96"], Float[Tensor, "N 10"], Float[Tensor, "N 3"]]:
        """Tokens to (6D pose by columns, betas, camera (s, tx, ty))."""
        n = tokens.shape[0]
        token = tokens.reshape(n, 1, -1) if self.query == "grid" else tokens.new_zeros(n, 1, 1)
        decoded = self.transformer(token, tokens)[:, 0]  # (N, dim)
        return (
            self.decpose(decoded) + self.init_hand_pose,
            self.decshape(decoded) + self.init_betas,
            self.deccam(decoded) + self.init_cam,
        )
