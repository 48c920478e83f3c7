"""The vision transformer that turns hand crops into a grid of tokens.

`patch16` is ViTPose's embedding (16 px patches with a padding of 2), whose parameter names and shapes are those of the
released HaMeR and HaWoR weights. `conv_stem` reaches the same stride by 3x3 convolutions: small networks that start
from random weights learn with it in minutes, and with plain patches they do not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PATCH = 16
PATCH_PADDING = 2  # of ViTPose's patch embedding, kept so that released weights see the pixels they were trained on
LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class BackboneSize:
    """Width, depth and heads of one ViT; `drop_path` is the largest rate of stochastic depth while training."""

    dim: int
    depth: int
    heads: int
    drop_path: float


# base, large and huge are ViTPose's; tiny and small are sized for conv_stem and short training without pretraining.
SIZES = {
    "tiny": BackboneSize(192, 2, 3, 0.0),
    "small": BackboneSize(384, 6, 6, 0.1),
    "base": BackboneSize(768, 12, 12, 0.3),
    "large": BackboneSize(1024, 24, 16, 0.5),
    "huge": BackboneSize(1280, 32, 16, 0.55),
}


class PatchEmbed(nn.Module):
    """Cut the picture into 16 px patches and project each to a token."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH, padding=PATCH_PADDING)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Images to a grid of tokens at stride 16."""
        return self.proj(images)


class ConvStem(nn.Module):
    """Two 3x3 convolutions per halving, four halvings: the grid of `PatchEmbed` with a prior that learns quickly."""

    def __init__(self, dim: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for out in (dim // 8, dim // 4, dim // 2, dim):
            for stride in (2, 1):
                layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                width = out
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Images to a grid of tokens at stride 16."""
        return self.layers(images.contiguous(memory_format=torch.channels_last))


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one picture."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        """Tokens to tokens."""
        n, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(n, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, head_dim)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, dim))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        """Tokens to tokens."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth per picture."""

    def __init__(self, dim: int, heads: int, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        mask = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep).div_(keep)
        return branch * mask

    def forward(self, tokens: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        """Tokens to tokens."""
        tokens = tokens + self._kept(self.attn(self.norm1(tokens)))
        return tokens + self._kept(self.mlp(self.norm2(tokens)))


class VisionTransformer(nn.Module):
    """ViT over the network's window.

    Args:
        size: width, depth, heads.
        window: (height, width) of the input in px, multiples of 16.
        patch_embed: "patch16" or "conv_stem".
        activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        size: BackboneSize,
        window: tuple[int, int],
        patch_embed: str = "patch16",
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.dim = size.dim
        self.grid = (window[0] // PATCH, window[1] // PATCH)
        self.activation_checkpointing = activation_checkpointing
        tokens = self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(size.dim) if patch_embed == "patch16" else ConvStem(size.dim)
        # Row 0 is a leftover of a class token: the released networks add it to every token.
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, size.dim))
        rates = [size.drop_path * index / max(size.depth - 1, 1) for index in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size.dim, size.heads, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N L C"]:
        """Windows to tokens, row by row of the grid."""
        grid = self.patch_embed(images)  # (N, C, h, w)
        tokens = grid.flatten(2).transpose(1, 2)  # (N, L, C)
        tokens = tokens + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.last_norm(tokens)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
