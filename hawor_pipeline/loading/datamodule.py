"""Training and validation clips of a configuration, their order, and their loaders.

The order of an epoch depends on seed and epoch alone, and the sampler can start at any batch of it, so a resumed run
gets the batches that an uninterrupted one would have got.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from hawor_pipeline.config import DatasetShare, TrainingConfig
from hawor_pipeline.core.box_rule import BoxRule
from hawor_pipeline.core.camera import camera_from_translation
from hawor_pipeline.core.rotations import chordal_mean, rotmat_to_rot6d
from hawor_pipeline.core.types import ClipBatch
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.loading.clips import Clips, covering_clips, training_clips
from hawor_pipeline.loading.dataset import ClipDataset, JoinedShards, keep_batch
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.shards.splits import held_out_subjects
from hawor_pipeline.shards.store import ShardSet, open_shards, stored_boxes

CACHE_BYTES = 600_000_000  # of decoded crops, in a training process without loader processes
# Columns that training reads; the others are not loaded.
COLUMNS = [
    "sample_id", "subject", "sequence", "view", "side", "frame", "is_right", "image_width", "box_center_px",
    "box_size_px", "crop_from_image", "intrinsics", "distortion", "global_orient", "hand_pose", "betas_as_right",
    "translation_m", "joints_cam_m", "joint_in_frame", "joint_visible", "occlusion", "truncation", "blur",
    "fitting_err", "confidence", "valid",
]  # fmt: skip


@dataclass(eq=False)
class ClipSampler(Sampler[list[tuple[int, int]]]):
    """Sampler of batches of (epoch, clip), from any batch of an epoch on.

    Args:
        groups: Clip numbers of each dataset of a mixture.
        weights: Share of each dataset in an epoch; None draws every clip once.
        batch_size: Clips per batch and process.
        seed: Seed of the run.
        limit: Maximum of batches per epoch (int), or share of them (float).
        rank, world: This process and the number of processes that train together.
        parts: Number of equal parts that each batch is split into; positions then count parts.
    """

    groups: Sequence[np.ndarray]
    weights: Sequence[float] | None
    batch_size: int
    seed: int
    limit: int | float = 1.0
    rank: int = 0
    world: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        self.draws = [len(group) for group in self.groups]
        if self.weights is not None:
            self.draws = [round(sum(self.draws) * weight / sum(self.weights)) for weight in self.weights]
        self.global_batch = max(min(self.batch_size * self.world, sum(self.draws) // self.world * self.world), 1)
        most = sum(self.draws) // self.global_batch
        self.batches = min(most, self.limit) if isinstance(self.limit, int) else max(int(most * self.limit), 1)
        clips = self.global_batch // self.world
        if clips < self.parts:
            raise ConfigError(f"a batch of {clips} clips has no {self.parts} parts; lower micro_batches")
        self.epoch = 0
        self.first_batch = 0

    def go_to(self, epoch: int) -> None:
        """Move to the start of an epoch; keep a position inside the current one."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __len__(self) -> int:
        return self.batches * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.order(self.epoch)
        for position in range(self.first_batch, len(self)):
            batch, part = divmod(position, self.parts)
            members = order[batch * self.global_batch : (batch + 1) * self.global_batch][self.rank :: self.world]
            yield [(self.epoch, int(clip)) for clip in np.array_split(members, self.parts)[part]]

    def order(self, epoch: int) -> np.ndarray:
        """Return the clip numbers of an epoch; a dataset drawn more often than it has clips repeats in whole rounds."""
        rng = np.random.default_rng((self.seed, epoch))
        drawn = []
        for group, count in zip(self.groups, self.draws, strict=True):
            rounds = math.ceil(count / max(len(group), 1))
            drawn.append(np.concatenate([rng.permutation(group) for _ in range(rounds)] or [group])[:count])
        return rng.permutation(np.concatenate(drawn))


@dataclass(slots=True)
class Split:
    """Subjects or sequences that train and validate, for the checkpoint and the report."""

    rule: str
    training: list[str]
    validation: list[str]

    def to_dict(self) -> dict[str, str | list[str]]:
        """Return plain values for a checkpoint."""
        return asdict(self)


class HandData:
    """Training and validation clips of a configuration.

    Args:
        config: Sizes, directories, split, filtering, augmentation.

    Raises:
        ConfigError: A directory is missing, or no clips remain to train or validate on; the message names the options.
        DataError: Shards are damaged.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        source, validation_dir = config.training_data_dir, config.validation_data_dir
        shares = [DatasetShare(path=source)] if isinstance(source, str) else list(source)
        self.folders = [share.path for share in shares] + ([validation_dir] if validation_dir else [])
        parts = [open_shards(share.path, columns=COLUMNS) for share in shares]
        self.shards = JoinedShards(parts)
        self.rows = load_rows(self.shards.table, config.data_filtering)
        valid = self.rows.valid.numpy()
        clips = training_clips(self.shards.table, config.clip_length, config.clip_stride, valid)
        self._held_out = [held_out_subjects(share.path) for share in shares]
        self.split, trains, validates = self._split(has_own=validation_dir is not None)
        self.training_clips = clips.take(np.flatnonzero(trains[clips.rows[:, 0]]))
        self.training_clips = self._in_views(self.training_clips, self.shards.table)
        if validation_dir is not None:
            self.validation_shards: ShardSet | JoinedShards = open_shards(validation_dir, columns=COLUMNS)
            self.validation_rows = load_rows(self.validation_shards.table, config.data_filtering)
            every = covering_clips(self.validation_shards.table, config.clip_length)
        else:
            self.validation_shards, self.validation_rows = self.shards, self.rows
            every = covering_clips(self.shards.table, config.clip_length)
            every = every.take(np.flatnonzero(validates[every.rows[:, 0]]))
        self.validation_clips = _spread(self._in_views(every, self.validation_shards.table), config)
        self._require_clips(shares)
        part_of = np.searchsorted(self.shards.starts, self.training_clips.rows[:, 0], side="right") - 1
        self._groups = [np.flatnonzero(part_of == part) for part in range(len(parts))]
        self._weights = [share.weight for share in shares] if len(shares) > 1 else None
        self.loads_itself = config.num_workers == 0

    @property
    def box_rule(self) -> BoxRule:
        """Rule of the bounding boxes of all datasets.

        Raises:
            ConfigError: they were converted with several box scales, so that the network would have no one rule.
        """
        rules = {folder: stored_boxes(folder).rule for folder in self.folders}
        if len(set(rules.values())) > 1:
            found = ", ".join(f"{folder}: {rule}" for folder, rule in rules.items())
            raise ConfigError(f"found several rules of the bounding box ({found}); convert with one box_scale.")
        return next(iter(rules.values()))

    def _in_views(self, clips: Clips, table: pa.Table) -> Clips:
        """Select the clips of the configured cameras; all frames of a clip are of one camera."""
        views = self.config.data_filtering.views
        if views is None:
            return clips
        recorded = table.column("view").to_numpy()[clips.rows[:, 0]]
        return clips.take(np.flatnonzero(np.isin(recorded, views)))

    def _split(self, *, has_own: bool) -> tuple[Split, np.ndarray, np.ndarray]:
        """Return the split, and masks of the rows that train and that validate; rows of test subjects do neither.

        The protocol of each dataset names its test subjects, and its validation subjects unless the configuration does.
        """
        subjects = np.array(self.shards.table.column("subject").to_pylist())
        parts = [slice(*ends) for ends in pairwise(self.shards.starts)]
        tests, stated = np.zeros(len(subjects), bool), np.zeros(len(subjects), bool)
        for part, (val, test) in zip(parts, self._held_out, strict=True):
            tests[part], stated[part] = np.isin(subjects[part], test), np.isin(subjects[part], val)
        if self.config.val_fraction is not None and not has_own:
            names = np.char.add(np.char.add(subjects, "/"), np.array(self.shards.table.column("sequence").to_pylist()))
            keys = sorted(set(names[~tests].tolist()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
            chosen = sorted(keys[: max(1, round(len(keys) * self.config.val_fraction))])
            validates = np.isin(names, chosen) & ~tests
            rest = sorted(set(keys) - set(chosen))
            return Split(f"val_fraction {self.config.val_fraction}", rest, chosen), ~tests & ~validates, validates
        wanted = self.config.val_subjects
        present = sorted(set(subjects.tolist()))
        absent = sorted(set(wanted or ()) - set(present))
        if absent and not has_own:
            raise ConfigError(
                f"val_subjects {absent} not in the training shards, which hold {present}; prepare them, or name others "
                "with --val-subjects, or hold out whole sequences with --val-fraction"
            )
        held_out = np.isin(subjects, wanted) if wanted else stated
        trains, validates = ~held_out & ~tests, held_out & (not has_own)
        rule = "validation_data_dir" if has_own else "val_subjects" if wanted else "default subjects"
        training, validation = (sorted(set(subjects[chosen].tolist())) for chosen in (trains, validates))
        return Split(rule, training, validation), trains, validates

    def _require_clips(self, shares: Sequence[DatasetShare]) -> None:
        where = ", ".join(share.path for share in shares)
        if self.config.data_filtering.views is not None:
            where += f" (views {list(self.config.data_filtering.views)})"
        if not len(self.training_clips):
            raise ConfigError(
                f"nothing to train on in {where}: found subjects {self.split.training} besides those held out "
                f"({sorted({subject for pair in self._held_out for part in pair for subject in part})}); prepare at "
                "least one training subject"
            )
        if not len(self.validation_clips):
            raise ConfigError(
                f"nothing to validate on in {where}: expected {self._expected_to_validate()}; prepare it, or name "
                "others with --val-subjects, or hold out whole sequences with --val-fraction, or set "
                "validation_data_dir"
            )

    def _expected_to_validate(self) -> str:
        stated = sorted({subject for val, _ in self._held_out for subject in val})
        return f"subject {' or '.join(stated)}" if stated else "a subject (the dataset states none)"

    def training_loader(self, epoch: int = 0, first_batch: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
        """Return the loader of training clips, from any batch of an epoch on."""
        config = self.config
        dataset = ClipDataset(
            self.shards,
            self.rows,
            self.training_clips,
            config.image_size,
            augmentation=config.augmentation_params if config.use_augmentation else None,
            seed=config.seed,
            cache_bytes=CACHE_BYTES if self.loads_itself else 0,
            warps_later=config.warp_on == "device",
        )
        sampler = ClipSampler(
            self._groups,
            self._weights,
            config.batch_size,
            config.seed,
            config.limit_train_batches,
            rank,
            world,
            config.micro_batches,
        )
        sampler.epoch, sampler.first_batch = epoch, first_batch
        return self._loader(dataset, sampler)

    def validation_loader(self, rank: int = 0, world: int = 1) -> DataLoader:
        """Return the loader of validation clips in the order of the table, each row counted once."""
        dataset = self._validation_dataset(CACHE_BYTES // 4 if self.loads_itself else 0)
        mine = np.arange(rank, len(dataset), world)
        batches = [
            mine[start : start + self.config.batch_size].tolist()
            for start in range(0, len(mine), self.config.batch_size)
        ]
        return self._loader(dataset, batches)

    def some_training_clips(self, count: int) -> ClipBatch:
        """Return some training clips without augmentation, evenly spread over all of them, as one batch."""
        dataset = ClipDataset(self.shards, self.rows, self.training_clips, self.config.image_size)
        return _spread_clips(dataset, count)

    def _validation_dataset(self, cache_bytes: int = 0) -> ClipDataset:
        shards, rows, clips = self.validation_shards, self.validation_rows, self.validation_clips
        return ClipDataset(shards, rows, clips, self.config.image_size, cache_bytes=cache_bytes)

    def some_validation_clips(self, count: int) -> ClipBatch:
        """Return some validation clips, evenly spread over all of them, as one batch."""
        dataset = self._validation_dataset()
        return _spread_clips(dataset, count)

    def _loader(self, dataset: ClipDataset, sampler: Sampler | Sequence[list]) -> DataLoader:
        config = self.config
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=keep_batch,  # type: ignore[arg-type]
            num_workers=config.num_workers,
            pin_memory=config.pin_memory and torch.cuda.is_available(),
            # torch refuses both without worker processes
            prefetch_factor=config.prefetch_factor if config.num_workers else None,
            persistent_workers=config.persistent_workers and config.num_workers > 0,
        )

    def clips_by_dataset(self, batch: ClipBatch, *, validation: bool = False) -> dict[str, Tensor]:
        """Return the positions of a batch's clips by their dataset of the mixture; empty without a mixture."""
        names = self.config.dataset_names
        if len(names) != len(self.shards.parts) or (validation and self.validation_shards is not self.shards):
            return {}
        first = batch.sample_index.amax(1).cpu().numpy()  # of a clip without any counted frame: -1
        part_of = np.searchsorted(self.shards.starts, first, side="right") - 1
        found = {name: np.flatnonzero(part_of == part) for part, name in enumerate(names)}
        return {name: torch.from_numpy(clips) for name, clips in found.items() if len(clips)}

    def mean_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean pose (96, 6D by columns), betas (10,) and camera (3,) of the training hands, to start from."""
        used = np.unique(self.training_clips.rows)
        rows = self.rows.take(torch.from_numpy(used[self.rows.valid.numpy()[used]]))
        mean = chordal_mean(rows.rotmats.double().mean(0))
        focal = (rows.intrinsics[:, 0, 0] + rows.intrinsics[:, 1, 1]) / 2
        camera = camera_from_translation(
            rows.translation_m, rows.box_center_px, rows.box_size_px, focal, rows.intrinsics[:, :2, 2]
        )
        return rotmat_to_rot6d(mean).flatten().float(), rows.betas.mean(0), camera.median(0).values


def _spread_clips(dataset: ClipDataset, count: int) -> ClipBatch:
    batch = dataset[np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()]
    assert isinstance(batch, ClipBatch)  # this dataset warps its crops itself
    return batch


def _spread(clips: Clips, config: TrainingConfig) -> Clips:
    """Select as many clips as `limit_val_batches` allows, evenly spread over all of them."""
    limit = config.limit_val_batches
    wanted = limit * config.batch_size if isinstance(limit, int) else int(len(clips) * limit)
    if wanted >= len(clips):
        return clips
    return clips.take(np.linspace(0, len(clips) - 1, max(wanted, 1)).round().astype(np.int64))
