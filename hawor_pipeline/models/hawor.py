"""The HaWoR network: MANO parameters of the hands in a video clip, per frame with attention over time.

window of the crop -> ViT tokens -> image attention over time -> MANO decoder head -> pose attention over time.
Right hands only: left hands are mirrored before (see `hawor_pipeline.loading.mirror`).
"""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hawor_pipeline.core.camera import MIN_CAMERA_SCALE, full_translation
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.reprojection import joints_in_crop, pose_and_place_in_crop
from hawor_pipeline.core.rotations import rot6d_to_rotmat
from hawor_pipeline.core.types import ClipBatch, HandPrediction
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.backbone import BackboneSize, VisionTransformer
from hawor_pipeline.models.form import RECORD, NetworkConfig, Record
from hawor_pipeline.models.mano_head import POSE_SIZE, ManoHead
from hawor_pipeline.models.temporal import TemporalAttention

BOX_INFO = 3
# Beside a large backbone, image attention needs much memory and little computation: below this share of the backbone's
# parameters its layers are recomputed in the backward pass (at most 3 % more work).
RECOMPUTE_BELOW = 0.1
# Mean and spread of box size over focal length, and the scale of the offset, as in the released network.
BOX_SIZE_MEAN, BOX_SIZE_SPREAD, BOX_OFFSET_SCALE = 0.24, 0.06, 2.8


@dataclass(slots=True)
class HaworOutput:
    """MANO parameters of right hands in the camera frame.

    The mesh is `ManoLayer(rotmats, betas).vertices + translation_m`.
    """

    rotmats: Float[Tensor, "B T 16 3 3"]  # absolute, mean pose included
    betas: Float[Tensor, "B T 10"]
    camera: Float[Tensor, "B T 3"]  # weak perspective (s, tx, ty) in the crop
    translation_m: Float[Tensor, "B T 3"]


def box_info(
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
    focal_px: Float[Tensor, "*batch"],
    principal_point_px: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    """Encode the position and size of the bounding box in the full image, normalised by the focal length.

    Source:
        CLIFF (Li et al. 2022), with the constants of the released network.
    """
    offset = (box_center_px - principal_point_px) / focal_px[..., None] * BOX_OFFSET_SCALE
    size = (box_size_px / focal_px - BOX_SIZE_MEAN) / BOX_SIZE_SPREAD
    return torch.cat((offset, size[..., None]), dim=-1)


class HaworModel(nn.Module):
    """The HaWoR network at any size. Its state_dict has an entry with the network's `Record`, beside the weights.

    Args:
        network: sizes and variants.

    Attributes:
        trained_on: subjects, or "subject/sequence" names, that it was trained on; empty: not recorded.
    """

    def __init__(self, network: NetworkConfig):
        super().__init__()
        self.network = network
        self.trained_on: tuple[str, ...] = ()
        self.backbone = VisionTransformer(
            BackboneSize(network.dim, network.depth, network.heads, network.drop_path),
            network.window,
            network.patch_embed,
            network.activation_checkpointing,
        )
        self.st_module = self._temporal(network.dim, network.st_hdim, network.st_nlayer, residual=True)
        self.motion_module = self._temporal(
            POSE_SIZE, network.motion_hdim, network.motion_nlayer, residual=network.motion_residual
        )
        if self.st_module is not None:
            share = parameter_count(self.st_module) / parameter_count(self.backbone)
            self.st_module.recompute = network.activation_checkpointing or share < RECOMPUTE_BELOW
        self.mano_head = ManoHead(
            network.dim,
            self.backbone.grid[0] * self.backbone.grid[1],
            dim=network.head_dim,
            depth=network.head_depth,
            heads=network.head_heads,
            feedforward=network.head_feedforward,
            query=network.head_query,
        )

    def _temporal(self, dim: int, hidden: int, layers: int, *, residual: bool) -> TemporalAttention | None:
        network = self.network
        if not hidden:
            return None
        return TemporalAttention(
            dim,
            BOX_INFO,
            hidden,
            layers,
            residual=residual,
            feedforward=network.temporal_feedforward,
            dropout=network.temporal_dropout,
        )

    def get_extra_state(self) -> Tensor:
        """Return the record, so that no state_dict leaves without the form of its network."""
        return Record(self.network, self.trained_on).to_tensor()

    def set_extra_state(self, state: Tensor) -> None:
        """Compare a record with this network.

        Raises:
            CheckpointError: with these weights the recorded network computes something else.
        """
        found = Record.from_tensor(state)
        if differing := self.network.differing(found.network):
            pairs = (f"{name} is {getattr(found.network, name)}" for name in differing)
            raise CheckpointError(
                f"the weights are of another network: {', '.join(pairs)} in the state_dict; load them by load_hawor"
            )
        self.trained_on = found.trained_on

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any) -> None:
        # of weights without a record, whoever built the network knows the form
        state_dict.setdefault(prefix + RECORD, self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self,
        images: Float[Tensor, "B T 3 S S"],
        box_center_px: Float[Tensor, "B T 2"],
        box_size_px: Float[Tensor, "B T"],
        focal_px: Float[Tensor, "B T"],
        principal_point_px: Float[Tensor, "B T 2"],
    ) -> HaworOutput:
        """Estimate the hand in every frame of every clip.

        Args:
            images: ImageNet-normalised RGB crops of the boxes, left hands mirrored.
            box_center_px, box_size_px: the square bounding boxes in the full pinhole image (mirrored too).
            focal_px, principal_point_px: of that image.
        """
        clips, frames = images.shape[:2]
        margin = images.shape[-1] // 8
        window = images.flatten(0, 1)[..., margin:-margin]  # (N, 3, S, 3/4 S)
        info = box_info(box_center_px, box_size_px, focal_px, principal_point_px)  # (B, T, 3)
        tokens = self.backbone(window)  # (N, L, C)
        if self.st_module is not None:  # every cell of the grid attends over time by itself
            tokens = self.st_module(tokens.unflatten(0, (clips, frames)), info).flatten(0, 1)
        pose, betas, camera = (part.unflatten(0, (clips, frames)) for part in self.mano_head(tokens))
        # Rotations and metres need float32: half precision would cost degrees and centimetres.
        with torch.autocast(images.device.type, enabled=False):
            if self.motion_module is not None:
                pose = self.motion_module(pose[:, :, None], info)[:, :, 0]
            camera = camera.float()
            boxes = (box_center_px, box_size_px, focal_px, principal_point_px)
            least = MIN_CAMERA_SCALE if self.network.bounded_camera else -math.inf
            return HaworOutput(
                rotmats=rot6d_to_rotmat(pose.float().unflatten(-1, (16, 6)), layout="columns"),
                betas=betas.float(),
                camera=camera,
                translation_m=full_translation(camera, *boxes, min_scale=least),
            )


def parameter_count(module: nn.Module) -> int:
    """Count the trainable and frozen parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def with_mano(model: HaworModel, mano: ManoLayer, batch: ClipBatch) -> HandPrediction:
    """Predict the hands of a batch: run the network, then pose the body model by its output."""
    output = model(batch.images, batch.box_center_px, batch.box_size_px, batch.focal_px, batch.principal_point_px)
    hand = mano(output.rotmats, output.betas)
    joints = hand.joints + output.translation_m[..., None, :]
    target, boxes = batch.target, (batch.intrinsics, batch.box_center_px, batch.box_size_px)
    return HandPrediction(
        rotmats=output.rotmats,
        betas=output.betas,
        camera=output.camera,
        translation_m=output.translation_m,
        joints_m=joints,
        vertices_m=hand.vertices + output.translation_m[..., None, :],
        joints_crop=joints_in_crop(joints, *boxes),
        joints_crop_apart=pose_and_place_in_crop(joints, target.joints_m, target.valid, *boxes),
    )
