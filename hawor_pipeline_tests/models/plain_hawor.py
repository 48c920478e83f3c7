"""HaWoR's network written down as plainly as possible, for comparison: the twin of `hawor_pipeline.models`.

Every step is spelled out: attention with its matrix of weights, one key and value per image token, torch's layers over
time, boxes repeated for every cell. Module names are those of HaWoR's released state_dict, so that its weights load
strictly. Built from the description of HaWoR and HaMeR in their papers and the names and shapes of the released files.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PlainSizes:
    """The released network, unless said otherwise."""

    dim: int = 1280
    depth: int = 32
    heads: int = 16
    grid: tuple[int, int] = (16, 12)
    head_dim: int = 1024
    head_depth: int = 6
    head_feedforward: int = 1024
    st: tuple[int, int] = (512, 6)
    motion: tuple[int, int] = (384, 6)
    feedforward: int = 1024
    dropout: float = 0.1


def attend(query, key, value, heads):
    """softmax(q k / sqrt(d)) v with all of it in memory; (N, L, heads * d) each."""
    n, length, width = query.shape
    query, key, value = (part.reshape(n, -1, heads, width // heads).transpose(1, 2) for part in (query, key, value))
    weights = torch.softmax(query @ key.transpose(-1, -2) * (width // heads) ** -0.5, dim=-1)
    return (weights @ value).transpose(1, 2).reshape(n, length, width)


class PlainAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(attend(*self.qkv(x).chunk(3, dim=-1), self.heads))


class PlainMlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainPatches(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 16, stride=16, padding=2)

    def forward(self, images):
        return self.proj(images)


class PlainVit(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.patch_embed = PlainPatches(sizes.dim)
        self.pos_embed = nn.Parameter(torch.randn(1, sizes.grid[0] * sizes.grid[1] + 1, sizes.dim) * 0.02)
        self.blocks = nn.ModuleList(PlainBlock(sizes.dim, sizes.heads) for _ in range(sizes.depth))
        self.last_norm = nn.LayerNorm(sizes.dim, eps=1e-6)

    def forward(self, images):
        grid = self.patch_embed(images)
        x = grid.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x).transpose(1, 2).reshape(grid.shape)


class PlainPositions(nn.Module):
    def __init__(self, dim, dropout):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        table = torch.zeros(100, 1, dim)
        for index in range(0, dim, 2):
            angle = torch.arange(100) * math.exp(-math.log(10000.0) * index / dim)
            table[:, 0, index], table[:, 0, index + 1] = torch.sin(angle), torch.cos(angle)
        self.register_buffer("pe", table)

    def forward(self, x):
        return self.dropout(x + self.pe[: x.shape[0]])


class PlainTemporal(nn.Module):
    def __init__(self, dim, hidden, layers, residual, sizes):
        super().__init__()
        self.residual = residual
        self.l1 = nn.Linear(dim + 3, hidden)
        self.l2 = nn.Linear(hidden, dim)
        self.pos_embedding = PlainPositions(hidden, sizes.dropout)
        layer = nn.TransformerEncoderLayer(hidden, 4, sizes.feedforward, sizes.dropout, activation="gelu")
        self.trans = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x):
        x = x.permute(1, 0, 2)  # frames first
        out = self.l2(self.trans(self.pos_embedding(self.l1(x))))
        if self.residual:
            out = x[..., : out.shape[-1]] + out
        return out.permute(1, 0, 2)


class PlainSelfAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.to_qkv = nn.Linear(dim, 3 * 512, bias=False)
        self.to_out = nn.Sequential(nn.Linear(512, dim), nn.Dropout(0.0))

    def forward(self, x):
        return self.to_out(attend(*self.to_qkv(x).chunk(3, dim=-1), heads=8))


class PlainCrossAttention(nn.Module):
    def __init__(self, dim, context_dim):
        super().__init__()
        self.to_kv = nn.Linear(context_dim, 2 * 512, bias=False)
        self.to_q = nn.Linear(dim, 512, bias=False)
        self.to_out = nn.Sequential(nn.Linear(512, dim), nn.Dropout(0.0))

    def forward(self, x, context):
        return self.to_out(attend(self.to_q(x), *self.to_kv(context).chunk(2, dim=-1), heads=8))


class PlainFeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, dim))

    def forward(self, x):
        return self.net(x)


class PlainPreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x, *context):
        return self.fn(self.norm(x), *context)


class PlainLevels(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        dim = sizes.head_dim
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PlainPreNorm(dim, PlainSelfAttention(dim)),
                    PlainPreNorm(dim, PlainCrossAttention(dim, sizes.dim)),
                    PlainPreNorm(dim, PlainFeedForward(dim, sizes.head_feedforward)),
                ]
            )
            for _ in range(sizes.head_depth)
        )

    def forward(self, x, context):
        for to_itself, to_image, feedforward in self.layers:
            x = to_itself(x) + x
            x = to_image(x, context) + x
            x = feedforward(x) + x
        return x


class PlainDecoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.to_token_embedding = nn.Linear(1, sizes.head_dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, sizes.head_dim))
        self.transformer = PlainLevels(sizes)

    def forward(self, token, context):
        return self.transformer(self.to_token_embedding(token) + self.pos_embedding, context)


class PlainManoHead(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.transformer = PlainDecoder(sizes)
        self.decpose = nn.Linear(sizes.head_dim, 96)
        self.decshape = nn.Linear(sizes.head_dim, 10)
        self.deccam = nn.Linear(sizes.head_dim, 3)
        self.register_buffer("init_hand_pose", torch.eye(3)[:2].flatten().repeat(16)[None])
        self.register_buffer("init_betas", torch.zeros(1, 10))
        self.register_buffer("init_cam", torch.tensor([[4.0, 0.0, 0.0]]))

    def forward(self, grid):
        context = grid.flatten(2).transpose(1, 2)
        token = self.transformer(grid.new_zeros(len(grid), 1, 1), context).squeeze(1)
        return (
            self.decpose(token) + self.init_hand_pose,
            self.decshape(token) + self.init_betas,
            self.deccam(token) + self.init_cam,
        )


class PlainHawor(nn.Module):
    """Same arguments and results as `HaworModel`; clips of up to 100 frames."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.backbone = PlainVit(sizes)
        self.st_module = PlainTemporal(sizes.dim, *sizes.st, True, sizes)
        self.motion_module = PlainTemporal(96, *sizes.motion, False, sizes)
        self.mano_head = PlainManoHead(sizes)
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, images, box_center_px, box_size_px, focal_px, principal_point_px):
        b, t = images.shape[:2]
        h, w = self.sizes.grid
        cut = images.shape[-1] // 8
        box = torch.cat(
            [
                (box_center_px - principal_point_px) / focal_px[..., None] * 2.8,
                ((box_size_px - 0.24 * focal_px) / (0.06 * focal_px))[..., None],
            ],
            dim=-1,
        )
        grid = self.backbone(images.flatten(0, 1)[:, :, :, cut:-cut])  # (b t) c h w
        repeated = box.flatten(0, 1)[:, :, None, None].expand(-1, -1, h, w)
        tracks = torch.cat([grid, repeated], dim=1).view(b, t, -1, h, w).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tracks = self.st_module(tracks)  # (b h w) t c
        grid = tracks.view(b, h, w, t, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        pose, betas, camera = self.mano_head(grid)
        pose = self.motion_module(torch.cat([pose.view(b, t, 96), box], dim=-1))
        camera = camera.view(b, t, 3)
        return (
            columns_to_rotmat(pose.view(b, t, 16, 6)),
            betas.view(b, t, 10),
            camera,
            self.translation(camera, box_center_px, box_size_px, focal_px, principal_point_px),
        )

    @staticmethod
    def translation(camera, center, size, focal, principal):
        s, x, y = camera.unbind(-1)
        offset = 2 * (center - principal) / (size * s)[..., None]
        return torch.stack([x + offset[..., 0], y + offset[..., 1], 2 * focal / (size * s)], dim=-1)


def columns_to_rotmat(six):
    """Gram-Schmidt; the six numbers are two columns, one after the other."""
    first, second = six[..., :3], six[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.cross(x, y, dim=-1)], dim=-1)


def randomise(model, seed=0, spread=1.0):
    """Weights of a network in use, instead of initial ones that are nearly zero: everything has an effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or name.endswith("pos_embedding.pe"):
            continue
        fan_in = value[0].numel() if value.ndim > 1 else 10
        noise = torch.randn(value.shape, generator=generator) * spread / math.sqrt(fan_in)
        if "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.1 * noise)
        else:
            value.copy_(value + 0.1 * noise if name.startswith("mano_head.init") else noise)
    return model.eval()
