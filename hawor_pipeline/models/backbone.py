"""Vision transformer from hand crops to a grid of tokens.

`patch16` is ViTPose's embedding (16 px patches with a padding of 2), as in the released HaMeR and HaWoR networks.
`conv_stem` reaches the same stride by 3x3 convolutions: with it, small networks learn from random weights in minutes,
unlike with plain patches.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hawor_pipeline.models.layers import Attention, FeedForward

PATCH = 16
PATCH_PADDING = 2  # of ViTPose's patch embedding: released weights were trained with it
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
    """Patch embedding: 16 px patches, each projected to a token."""

    def __init__(self, dim: int):
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, stride=PATCH, padding=PATCH_PADDING)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Embed images as a grid of tokens at stride 16."""
        return self.projection(images)


class ConvStem(nn.Module):
    """Convolutional stem: two 3x3 convolutions per halving, four halvings to the grid of `PatchEmbed`."""

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
        """Embed images as a grid of tokens at stride 16."""
        return self.layers(images.contiguous(memory_format=torch.channels_last))


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth.

    While training, each branch is computed for a share 1 - `drop_path` of the images only, which saves time and memory,
    and scaled so that its expectation is unchanged.
    """

    def __init__(self, dim: int, heads: int, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attention = Attention(dim, heads)
        self.feedforward_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.feedforward = FeedForward(dim, 4 * dim)

    def forward(self, tokens: Float[Tensor, "N L C"]) -> Float[Tensor, "N L C"]:
        """Transform tokens."""
        tokens = self._add(tokens, self.attention, self.attention_norm)
        return self._add(tokens, self.feedforward, self.feedforward_norm)

    def _add(self, tokens: Tensor, branch: nn.Module, norm: nn.LayerNorm) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return tokens + branch(tokens, norm)
        images = tokens.shape[0]
        kept = max(round(images * (1.0 - self.drop_path)), 1)
        chosen = torch.randperm(images, device=tokens.device)[:kept]
        update = branch(tokens[chosen], norm).to(tokens.dtype)
        return tokens.index_add(0, chosen, update, alpha=images / kept)


class VisionTransformer(nn.Module):
    """ViT over the network's window.

    Args:
        size: width, depth, heads.
        window: (height, width) of the input in px, multiples of 16.
        patch_embed: "patch16" or "conv_stem".
        activation_checkpointing: recompute the activations of each block in the backward pass.
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
        # Row 0 belonged to a class token in pretraining; the released networks add it to every token instead.
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, size.dim))
        rates = [size.drop_path * index / max(size.depth - 1, 1) for index in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size.dim, size.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.dim, eps=LAYER_NORM_EPS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N L C"]:
        """Embed and transform windows to tokens, row by row of the grid."""
        grid = self.patch_embed(images)  # (N, C, h, w)
        tokens = grid.flatten(2).transpose(1, 2).contiguous()  # (N, L, C)
        tokens = tokens + self.positions[:, 1:] + self.positions[:, :1]
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
