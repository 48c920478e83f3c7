"""Training loss: nine terms over a prediction and a target, weighted statically or adaptively."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hawor_pipeline.core.dictionaries import LossInputs, from_dictionaries
from hawor_pipeline.core.losses import (
    betas_loss,
    keypoints_2d_loss,
    keypoints_3d_loss,
    lag_mask,
    occlusion_robustness_loss,
    rotation_loss,
    temporal_consistency_loss,
    topology_loss,
    vertices_loss,
)
from hawor_pipeline.core.losses.robust import root_relative
from hawor_pipeline.core.mesh import MeshTopology, mesh_topology
from hawor_pipeline.core.skeleton import VERTEX_COUNT
from hawor_pipeline.core.types import HandPrediction, HandTarget, promote
from hawor_pipeline.core.weighting import TERMS, LossWeighting, Mode, resolve_weights
from hawor_pipeline.errors import ConfigError

ROOT_MOTION_SCALE_M = 0.050  # one unit of the root's motion error: depth from a single image is coarse


class EnhancedTrainingLoss(nn.Module):
    """Weighted sum of nine loss terms, each a pure function of `hawor_pipeline.core.losses`.

    KEYPOINTS_3D root-relative joints; KEYPOINTS_2D joints in crop units; GLOBAL_ORIENT and HAND_POSE rotations by their
    chord; BETAS; MESH_VERTICES root-relative; MESH_FACES edges, normals and Laplacian; TEMPORAL_CONSISTENCY velocity
    and acceleration errors of root-relative joints and of the root; OCCLUSION_ROBUSTNESS joints, occluded ones with
    more weight.

    KEYPOINTS_2D compares pose and place separately if the prediction has `joints_crop_apart`, from
    `core.reprojection.pose_and_place_in_crop`. Training from random weights needs it: without it the camera's scale can
    diverge before the orientation is learned.

    In training mode an adaptive weighting updates with each pass; in evaluation mode the total uses the static weights
    and no state changes. Under gradient accumulation set `accumulate_grad_batches`.

    Args:
        loss_weights: weights by term; terms not named keep their default, 0 switches a term off.
        use_adaptive_weights: False means static weighting for any `loss_weighting`.
        temporal_window: lags 1 to temporal_window - 1 are compared; 1 switches the temporal term off.
        loss_weighting: "static", "ema" or "gradnorm_head"; None is "ema".
        faces: (faces, 3), triangles of the hand; without them (see `set_topology`) there is no MESH_FACES term.

    Raises:
        ConfigError: unknown term or weighting, bad weight, or a window below 1.

    Example:
        >>> EnhancedTrainingLoss({"BETAS": 0.0}, use_adaptive_weights=False).weights()["BETAS"].item()
        0.0
    """

    _faces: Tensor | None
    _edges: Tensor | None
    _inverse_degree: Tensor | None

    def __init__(
        self,
        loss_weights: Mapping[str, float] | None = None,
        use_adaptive_weights: bool = True,
        temporal_window: int = 5,
        *,
        loss_weighting: Mode | None = None,
        faces: Int[Tensor, "faces 3"] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(temporal_window, int) or temporal_window < 1:
            raise ConfigError(f"found temporal_window {temporal_window!r}, expected a whole number of at least 1.")
        self.temporal_window = temporal_window
        self._given = resolve_weights(loss_weights)
        mode = (loss_weighting or "ema") if use_adaptive_weights else "static"
        self.weighting = LossWeighting(self._given, mode)
        for name in ("_faces", "_edges", "_inverse_degree"):
            self.register_buffer(name, None, persistent=False)
        for name in ("_last_weights", "_last_losses"):
            self.register_buffer(name, torch.full((len(TERMS),), torch.nan), persistent=False)
        if faces is not None:
            self.set_topology(faces)

    @property
    def accumulate_grad_batches(self) -> int:
        """Number of forward passes per optimiser step."""
        return self.weighting.accumulate

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, passes: int) -> None:
        self.weighting.accumulate = passes

    def set_topology(self, faces: Int[Tensor, "faces 3"]) -> None:
        """Set the triangles that MESH_FACES compares.

        Args:
            faces: (faces, 3), indices of the 778 vertices.
        """
        topology = mesh_topology(torch.as_tensor(faces).long().to(self._last_weights.device), VERTEX_COUNT)
        self._faces, self._edges, self._inverse_degree = topology.faces, topology.edges, topology.inverse_degree

    def finish_step(self) -> None:
        """Close an optimiser step that ended before `accumulate_grad_batches` passes, as at the end of an epoch."""
        self.weighting.finish_step()

    def weights(self) -> dict[str, Tensor]:
        """Return the weight of each term in the last pass (before the first: the static weights), without gradient."""
        last = torch.where(self._last_weights.isnan(), self.weighting.static, self._last_weights)
        return dict(zip(TERMS, last.unbind(), strict=True))

    def get_loss_weights(self) -> dict[str, float]:
        """Return `weights` as plain numbers, under the name of the earlier system. Waits for the device."""
        return {name: weight.item() for name, weight in self.weights().items()}

    def shares(self) -> dict[str, Tensor]:
        """Return the share of each term in the total of the last pass, without gradient; NaN for a missing term."""
        weighted = self._last_weights * self._last_losses
        return dict(zip(TERMS, (weighted / weighted.nansum()).unbind(), strict=True))

    def forward(
        self,
        pred: HandPrediction | Mapping[str, Any],
        target: HandTarget | Mapping[str, Any],
        target_vertices_m: Float[Tensor, "*batch time 778 3"] | None = None,
        *,
        valid_mask: Tensor | None = None,
        occlusion_mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Compute the total loss and its terms.

        Args:
            pred: prediction, leading dimensions (*batch, time); or, with `target`, a dictionary of the earlier system,
                see `hawor_pipeline.core.dictionaries`.
            target: ground truth of the same leading dimensions; only frames with `valid` count.
            target_vertices_m: (*batch, time, 778, 3), metres, ground-truth vertices; without them there are no mesh
                terms. Dictionaries hold them.
            valid_mask: images that count, beside dictionaries.
            occlusion_mask: hidden joints, beside dictionaries.

        Returns:
            The total (scalar, with gradient, float32), and each term by name (scalars without weight and gradient). A
            term that is switched off or cannot be computed is missing; a term without samples in this batch is NaN and
            adds nothing to the total.

        Raises:
            DataError: a dictionary lacks a key, or has a value of the wrong shape.
            ConfigError: dictionaries under gradnorm_head, or masks beside structs.
        """
        terms: Collection[str] = TERMS
        if not isinstance(pred, HandPrediction) or not isinstance(target, HandTarget):
            if target_vertices_m is not None:
                raise ConfigError("found a third argument beside dictionaries, expected valid_mask=... by its name.")
            inputs = self._from_dictionaries(pred, target, valid_mask, occlusion_mask)
            pred, target, target_vertices_m, terms = inputs.pred, inputs.target, inputs.target_vertices_m, inputs.terms
        elif valid_mask is not None or occlusion_mask is not None:
            raise ConfigError("found a mask beside a HandTarget, expected its fields valid and joint_visible instead.")
        with torch.autocast(pred.joints_m.device.type, enabled=False):
            losses, present = self._terms(pred, target, target_vertices_m, terms)
            values = self._values(losses, present)
            learning = self.training and self.weighting.mode != "static"
            if learning:
                self._observe(pred, losses, values)
            weights = self.weighting().to(pred.joints_m.device)
            # Zero, yet linked to the graph: distributed training waits for a gradient of every parameter, also from a
            # batch without valid samples.
            total = promote(pred.joints_m).sum() * 0.0
            for index, name in enumerate(TERMS):
                if name in losses:
                    total = total + weights[index] * losses[name]
            if learning:
                self.weighting.end_pass()
        self._last_weights, self._last_losses = weights.detach().clone(), values
        components = {name: values[TERMS.index(name)] for name in losses}
        return total, components

    def _from_dictionaries(self, pred: Any, target: Any, valid: Tensor | None, hidden: Tensor | None) -> LossInputs:
        if self.weighting.mode == "gradnorm_head":
            raise ConfigError(
                "found dictionaries under loss_weighting gradnorm_head, expected static or ema: gradients are measured "
                "at the outputs of the head, which dictionaries do not hold."
            )
        wanted = [name for name in TERMS if self._given[name] > 0]
        return from_dictionaries(pred, target, valid, hidden, wanted=wanted)

    def _values(self, losses: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Collect all terms in one vector without gradient; NaN for terms without samples in this batch."""
        nan = self._last_losses.new_full((), torch.nan)
        found = [torch.where(present[n], losses[n].detach().float(), nan) if n in losses else nan for n in TERMS]
        return torch.stack(found)

    def _observe(self, pred: HandPrediction, losses: dict[str, Tensor], values: Tensor) -> None:
        here = ~values.isnan()
        if self.weighting.mode == "ema":
            self.weighting.observe(values, here)
        elif self.weighting.wants_gradients:
            self.weighting.observe(_gradient_norms(pred, losses, values), here)

    def _terms(
        self,
        pred: HandPrediction,
        target: HandTarget,
        target_vertices_m: Tensor | None,
        terms: Collection[str] = TERMS,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute every one of the given terms that is on, with a flag for terms that have samples in this batch."""
        valid = target.valid
        joint = valid.unsqueeze(-1)  # (*b, T, 1)
        in_frame = target.joint_in_frame & joint
        joints = pred.joints_m, target.joints_m
        makers = {
            "KEYPOINTS_3D": lambda: keypoints_3d_loss(*joints, joint),
            "KEYPOINTS_2D": lambda: _in_crop(pred, target, in_frame),
            "GLOBAL_ORIENT": lambda: rotation_loss(pred.rotmats[..., 0, :, :], target.rotmats[..., 0, :, :], valid),
            "HAND_POSE": lambda: rotation_loss(pred.rotmats[..., 1:, :, :], target.rotmats[..., 1:, :, :], joint),
            "BETAS": lambda: betas_loss(pred.betas, target.betas, valid),
            "OCCLUSION_ROBUSTNESS": lambda: occlusion_robustness_loss(*joints, target.joint_visible, joint),
        }
        present = {"KEYPOINTS_2D": in_frame.any()}  # other terms: where any frame is valid
        if self.temporal_window > 1 and valid.shape[-1] > 1:
            makers["TEMPORAL_CONSISTENCY"] = lambda: self._temporal(pred, target)
            present["TEMPORAL_CONSISTENCY"] = lag_mask(valid, target.frame, 1).any()
        if target_vertices_m is not None:
            p = _relative_to(pred.vertices_m, pred.joints_m)
            t = _relative_to(target_vertices_m, target.joints_m)
            makers["MESH_VERTICES"] = lambda: vertices_loss(p, t, joint)
            if self._faces is not None and self._edges is not None and self._inverse_degree is not None:
                topology = MeshTopology(self._faces, self._edges, self._inverse_degree)
                makers["MESH_FACES"] = lambda: topology_loss(p, t, topology, valid)
        on = [name for name in TERMS if name in makers and name in terms and self._given[name] > 0]
        return {name: makers[name]() for name in on}, dict.fromkeys(on, valid.any()) | present

    def _temporal(self, pred: HandPrediction, target: HandTarget) -> Tensor:
        """Compare the motion of the hand's shape, plus the motion of its root on a coarser scale."""
        term = partial(temporal_consistency_loss, valid=target.valid, frame=target.frame, window=self.temporal_window)
        shape = term(root_relative(pred.joints_m), root_relative(target.joints_m))
        root = term(pred.joints_m[..., :1, :], target.joints_m[..., :1, :], scale_m=ROOT_MOTION_SCALE_M)
        return shape + root


def _in_crop(pred: HandPrediction, target: HandTarget, in_frame: Tensor) -> Tensor:
    """Compare the joints in the crop, with pose and place separate if the prediction has them."""
    if pred.joints_crop_apart is None:
        return keypoints_2d_loss(pred.joints_crop, target.joints_crop, in_frame)
    twice = torch.cat((target.joints_crop, target.joints_crop), -2)
    return keypoints_2d_loss(pred.joints_crop_apart, twice, torch.cat((in_frame, in_frame), -1))


def _relative_to(vertices: Tensor, joints: Tensor) -> Tensor:
    return promote(vertices) - promote(joints[..., :1, :])


def _gradient_norms(pred: HandPrediction, losses: dict[str, Tensor], values: Tensor) -> Tensor:
    """Measure the norm of each term's gradient at the outputs of the head; NaN for terms without gradient."""
    # At the outputs of the head, not at its weights: that spares a backward pass through the network per term.
    heads = [t for t in (pred.rotmats, pred.betas, pred.camera) if t.requires_grad]
    norms = []
    for name in TERMS:
        if name not in losses or not heads or not losses[name].requires_grad:
            norms.append(values.new_full((), torch.nan))
            continue
        gradients = torch.autograd.grad(losses[name], heads, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in gradients if g is not None]
        norms.append(torch.stack(squares).sum().sqrt() if squares else values.new_zeros(()))
    return torch.stack(norms)
