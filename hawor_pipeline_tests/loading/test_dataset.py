"""Clips: labels stay exact under mirroring, lens and augmentation, and lie where the pixels are."""

import cv2
import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch

from hawor_pipeline.config import AugmentationParams, DataFiltering, TrainingConfig
from hawor_pipeline.core.camera import mirror_intrinsics, mirror_points, project_distorted, project_pinhole, where_left
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import mirror_rotmat
from hawor_pipeline.core.types import ClipBatch
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.loading.augmentation import draw_changes, roll_matrix, rolled_pixels_matrix, rolled_translation
from hawor_pipeline.loading.clips import covering_clips, runs_of_frames, training_clips
from hawor_pipeline.loading.datamodule import ClipSampler, HandData
from hawor_pipeline.loading.dataset import IMAGENET_MEAN, IMAGENET_STD, ClipDataset
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.loading.stored_crops import warp_crops
from hawor_pipeline.provenance import atomic_write_json
from hawor_pipeline.shards.schema import as_numpy, to_arrow
from hawor_pipeline.shards.splits import PROTOCOLS_FILE, SplitProtocol
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.training.resolve import with_recorded_split
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline_tests.training.hand_shards import STORED, TIPS, write_mano, write_shards

STRONG = AugmentationParams(rotation_range=60, translation_range=0.15, scale_range=0.2, color_jitter=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_shards(root / "shards", write_mano(root / "mano"))
    return root


@pytest.fixture(scope="module")
def shards(data):
    return open_shards(data / "shards")


@pytest.fixture(scope="module")
def layers(data):
    return {side: ManoLayer(load_mano(data / "mano", side)) for side in ("left", "right")}


def _batch(shards, augmentation=None, length=3, epoch=0, image_size=64) -> ClipBatch:
    rows = load_rows(shards.table)
    clips = training_clips(shards.table, length, 2, rows.valid.numpy())
    dataset = ClipDataset(shards, rows, clips, image_size, augmentation=augmentation, seed=1)
    return dataset[[(epoch, clip) for clip in range(len(dataset))]]


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_labels_agree_with_each_other(shards, layers, augmentation):
    """Parameters, joints and projection describe one hand, mirrored, rolled, moved and scaled or not."""
    batch = _batch(shards, augmentation)
    target = batch.target
    hand = layers["right"](target.rotmats, target.betas)
    torch.testing.assert_close(hand.joints + target.translation_m[..., None, :], target.joints_m, atol=2e-6, rtol=0)
    pixels = project_pinhole(target.joints_m, batch.intrinsics)
    crop = (pixels - batch.box_center_px[..., None, :]) / batch.box_size_px[..., None, None]
    torch.testing.assert_close(crop, target.joints_crop, atol=1e-5, rtol=0)
    assert target.joints_crop.abs().max() < 0.9


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_pixels_are_where_the_labels_say(shards, augmentation):
    """Fingertips are drawn as coloured dots: each must lie at its label, in every view, on both sides."""
    batch = _batch(shards, augmentation, image_size=128)
    here, looked = _tips_found(batch, offset=0)
    elsewhere, _ = _tips_found(batch, offset=12)
    assert looked > 60
    assert here > 0.85 * looked  # tips that touch cover each other
    assert elsewhere < 0.2 * looked


def _tips_found(batch: ClipBatch, offset: int) -> tuple[int, int]:
    """Count the tips whose colour is within 2 px of the label (plus an offset), and the tips that were searched."""
    images = (batch.images.permute(0, 1, 3, 4, 2) * IMAGENET_STD + IMAGENET_MEAN).clamp(0, 1)
    found, looked = 0, 0
    for clip in range(len(batch)):
        for joint in TIPS:
            colour = cv2.cvtColor(np.uint8([[[8 * joint, 220, 255]]]), cv2.COLOR_HSV2RGB)[0, 0] / 255.0
            x, y = ((batch.target.joints_crop[clip, 0, joint] + 0.5) * 128 - 0.5 + offset).tolist()
            if not (4 < x < 123 and 4 < y < 123):
                continue
            distance = (images[clip, 0] - torch.from_numpy(colour).float()).abs().sum(-1)
            looked += 1
            found += bool(distance[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].min() < 0.5)
    return found, looked


def test_lens_is_linear_enough_inside_a_box(shards):
    """Joints of the distorted ego view, mapped through the linearised lens, against the true distorted projection."""
    rows = load_rows(shards.table)
    ego = np.flatnonzero(as_numpy(shards.table, "view") == 0)
    crops = torch.from_numpy(as_numpy(shards.table, "crop_from_image")[ego]).double()
    joints = torch.from_numpy(as_numpy(shards.table, "joints_px")[ego]).double()
    stored = joints @ crops[:, :, :2].transpose(1, 2) + crops[:, None, :, 2]
    taken = rows.take(torch.from_numpy(ego))
    pixels = project_pinhole(taken.joints_m, taken.intrinsics)
    mapped = pixels @ taken.stored_from_image[:, :, :2].transpose(1, 2) + taken.stored_from_image[:, None, :, 2]
    error = (mapped.double() - stored).norm(dim=-1)
    assert error.mean() < 0.5 and error.max() < 3.0  # px of a 96 px crop
    static = np.flatnonzero(as_numpy(shards.table, "view") == 1)
    taken = rows.take(torch.from_numpy(static))
    pixels = project_pinhole(taken.joints_m, taken.intrinsics)
    mapped = pixels @ taken.stored_from_image[:, :, :2].transpose(1, 2) + taken.stored_from_image[:, None, :, 2]
    crops = torch.from_numpy(as_numpy(shards.table, "crop_from_image")[static]).double()
    joints = torch.from_numpy(as_numpy(shards.table, "joints_px")[static]).double()
    stored = joints @ crops[:, :, :2].transpose(1, 2) + crops[:, None, :, 2]
    torch.testing.assert_close(mapped.double(), stored, atol=2e-3, rtol=0)


def test_there_and_back_to_the_true_side(shards, layers):
    """Network-side labels, brought back, project onto the pixels of the files, lens included."""
    table = shards.table
    rows = load_rows(table)
    hand = layers["right"](rows.rotmats, rows.betas)
    vertices = hand.vertices + rows.translation_m[:, None]
    rotmats = where_left(rows.is_right, mirror_rotmat(rows.rotmats), rows.rotmats)
    translation, joints, vertices = (
        where_left(rows.is_right, mirror_points(points), points)
        for points in (rows.translation_m, rows.joints_m, vertices)
    )
    torch.testing.assert_close(joints, torch.from_numpy(as_numpy(table, "joints_cam_m")), atol=1e-6, rtol=0)
    torch.testing.assert_close(translation, torch.from_numpy(as_numpy(table, "translation_m")), atol=1e-6, rtol=0)
    intrinsics = torch.from_numpy(as_numpy(table, "intrinsics"))
    pixels, _ = project_distorted(joints, intrinsics, torch.from_numpy(as_numpy(table, "distortion")))
    torch.testing.assert_close(pixels, torch.from_numpy(as_numpy(table, "joints_px")), atol=2e-3, rtol=0)
    left = ~rows.is_right
    betas = torch.from_numpy(as_numpy(table, "betas"))
    own = layers["left"](rotmats[left], betas[left]).vertices + translation[left][:, None]
    torch.testing.assert_close(own, vertices[left], atol=2e-6, rtol=0)
    assert torch.equal(mirror_rotmat(rotmats[left]), rows.rotmats[left])


def test_mirrored_camera_sees_the_mirrored_image():
    intrinsics = torch.tensor([[600.0, 2, 330], [0, 610, 260], [0, 0, 1]])
    point = torch.tensor([[0.1, -0.2, 0.8]])
    width = torch.tensor(700.0)
    seen = project_pinhole(point, intrinsics)
    mirrored = project_pinhole(point * torch.tensor([-1.0, 1, 1]), mirror_intrinsics(intrinsics, width))
    torch.testing.assert_close(mirrored, torch.stack((699 - seen[:, 0], seen[:, 1]), -1))


def test_a_mirrored_clip_is_the_same_clip_of_the_other_hand(shards):
    """With image, camera, labels and side mirrored in the table, the reader returns exactly the original rows."""
    original = {name: as_numpy(shards.table, name) for name in shards.table.column_names}
    keep = original["view"] == 1  # pinhole
    original = {name: values[keep] for name, values in original.items()}
    width, mirror = original["image_width"].astype(float), np.array([-1.0, 1, 1])
    turned = np.array([1.0, -1, -1])  # of an axis-angle vector
    mirrored = dict(original)
    mirrored["is_right"] = ~original["is_right"].astype(bool)
    mirrored["side"] = np.where(mirrored["is_right"], "right", "left")
    mirrored["global_orient"] = original["global_orient"] * turned
    mirrored["hand_pose"] = original["hand_pose"] * np.tile(turned, 15)
    for name in ("translation_m", "joints_cam_m"):
        mirrored[name] = original[name] * mirror
    mirrored["box_center_px"] = np.stack(
        (width - 1 - original["box_center_px"][:, 0], original["box_center_px"][:, 1]), 1
    )
    mirrored["intrinsics"] = original["intrinsics"].copy()
    mirrored["intrinsics"][:, 0, 2] = width - 1 - original["intrinsics"][:, 0, 2]
    flip = np.array([[-1.0, 0, STORED - 1], [0, 1, 0], [0, 0, 1]])  # of the stored crop, and so of its mirror image
    image_flip = np.tile(np.eye(3), (len(width), 1, 1))
    image_flip[:, 0, 0], image_flip[:, 0, 2] = -1, width - 1
    crop = np.concatenate((original["crop_from_image"], np.tile([[[0.0, 0, 1]]], (len(width), 1, 1))), 1)
    mirrored["crop_from_image"] = (flip @ crop @ image_flip)[:, :2]
    first, second = (load_rows(to_arrow(arrays, {"source": "synthetic"})) for arrays in (original, mirrored))
    assert torch.equal(first.is_right, ~second.is_right)
    unflip = torch.from_numpy(flip).float()
    stored = torch.cat((second.stored_from_image, torch.tensor([0.0, 0, 1]).expand(len(width), 1, 3)), 1)
    torch.testing.assert_close((unflip @ stored)[:, :2], first.stored_from_image, atol=1e-3, rtol=1e-5)
    for name in (
        "rotmats",
        "betas",
        "translation_m",
        "joints_m",
        "box_center_px",
        "box_size_px",
        "intrinsics",
        "valid",
    ):
        torch.testing.assert_close(getattr(second, name), getattr(first, name), atol=2e-4, rtol=1e-5, msg=name)


def test_flip_probability_mirrors_that_share_of_the_clips(shards):
    """Only the side changes: see the test above."""
    plain = _batch(shards)
    for share in (0.0, 0.5, 1.0):
        params = AugmentationParams(
            rotation_range=0, translation_range=0, scale_range=0, color_jitter=0, flip_probability=share
        )
        flipped = []
        for epoch in range(12):
            batch = _batch(shards, params, epoch=epoch)
            changed = batch.is_right != plain.is_right
            assert torch.equal(changed.all(1), changed.any(1))  # whole clips
            flipped.append(changed[:, 0])
            torch.testing.assert_close(batch.images, plain.images)
            assert torch.equal(batch.target.rotmats, plain.target.rotmats)
        assert abs(float(torch.stack(flipped).float().mean()) - share) < 0.15
    assert torch.equal(draw_changes(params, 3, [(0, 1)]).flip, draw_changes(params, 3, [(0, 1)]).flip)


def test_roll_there_and_back():
    torch.manual_seed(0)
    roll = torch.tensor([0.7])
    intrinsics = torch.tensor([[[600.0, 0, 330], [0, 640, 260], [0, 0, 1]]])
    points = torch.rand(1, 5, 3) + torch.tensor([0.0, 0, 1])
    turned = points @ roll_matrix(roll).transpose(-1, -2)
    pixels = rolled_pixels_matrix(intrinsics, roll)
    expected = project_pinhole(points, intrinsics) @ pixels[:, :2, :2].transpose(1, 2) + pixels[:, None, :2, 2]
    torch.testing.assert_close(project_pinhole(turned, intrinsics), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels @ rolled_pixels_matrix(intrinsics, -roll), torch.eye(3)[None], atol=1e-4, rtol=0)
    translation, root = torch.rand(1, 3), torch.rand(1, 3)
    there = rolled_translation(translation, root, roll_matrix(roll))
    turned_root = (roll_matrix(roll) @ root[..., None])[..., 0]
    back = rolled_translation(there, turned_root, roll_matrix(-roll))
    torch.testing.assert_close(back, translation)


def test_changes_are_a_function_of_seed_epoch_and_clip():
    first = draw_changes(STRONG, 3, [(0, 1), (2, 5)])
    again = draw_changes(STRONG, 3, [(2, 5)])
    assert torch.equal(first.shift[1:], again.shift)
    assert not torch.equal(first.shift[0], first.shift[1])
    assert not torch.equal(draw_changes(STRONG, 4, [(2, 5)]).shift, again.shift)


def test_all_frames_of_a_clip_change_alike(shards):
    plain, changed = _batch(shards), _batch(shards, STRONG)
    ratio = changed.box_size_px / plain.box_size_px
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    turn = changed.target.rotmats[:, :, 0] @ plain.target.rotmats[:, :, 0].transpose(-1, -2)
    torch.testing.assert_close(turn, turn[:, :1].expand_as(turn), atol=1e-5, rtol=0)


def test_clips_cover_every_row_once(shards):
    table = shards.table
    assert runs_of_frames(table) == [(start, start + 6) for start in range(0, table.num_rows, 6)]
    for length in (1, 4, 6, 16):
        clips = covering_clips(table, length)
        assert clips.rows.shape[1] == length
        counted = np.sort(clips.rows[clips.counted])
        assert counted.tolist() == list(range(table.num_rows))
    gap = table.filter(np.array([i % 6 != 2 for i in range(table.num_rows)]))
    assert runs_of_frames(gap)[:3] == [(0, 2), (2, 5), (5, 7)]


def test_every_frame_is_in_a_training_clip(shards):
    """Runs of 6 frames, which no stride divides: the last clip ends where the run does."""
    valid = np.ones(shards.table.num_rows, bool)
    for length, stride in ((4, 4), (4, 3), (5, 2), (6, 4), (16, 8), (1, 4)):
        clips = training_clips(shards.table, length, stride, valid)
        starts = sorted({int(first) % 6 for first in clips.rows[:, 0]})
        assert starts == sorted({*range(0, max(6 - length, 0) + 1, stride), max(6 - length, 0)}), (length, stride)
        assert len({tuple(rows) for rows in clips.rows.tolist()}) == len(clips)
        if length >= stride:
            assert set(clips.rows[clips.counted].tolist()) == set(range(shards.table.num_rows))


@pytest.mark.parametrize("length", [2, 4, 16])
def test_no_clip_reaches_across_a_gap(shards, length):
    """Frames 2 of every run are taken out: consecutive in the table, not in time."""
    table = shards.table.filter(np.array([i % 6 != 2 for i in range(shards.table.num_rows)]))
    frame = as_numpy(table, "frame").astype(int)
    track = np.array([name.rsplit("/", 2)[0] + name.rsplit("/", 1)[1] for name in as_numpy(table, "sample_id")])
    for clips in (covering_clips(table, length), training_clips(table, length, 1, np.ones(table.num_rows, bool))):
        steps = np.diff(frame[clips.rows], axis=1)
        both = clips.counted[:, 1:] & clips.counted[:, :-1]
        assert (steps[both] == 1).all() and (steps[~clips.counted[:, 1:]] <= 1).all()
        assert (track[clips.rows] == track[clips.rows[:, :1]]).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_ranks_share_an_epoch_without_loss_or_duplicates(world):
    groups = [np.arange(84)]
    ranks = [list(ClipSampler(groups, None, 84 // world, seed=3, rank=rank, world=world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1  # every rank takes as many steps
    drawn = [clip for batches in ranks for batch in batches for _, clip in batch]
    assert sorted(drawn) == list(range(84))
    small = [list(ClipSampler(groups, None, 2, seed=3, rank=rank, world=world)) for rank in range(world)]
    drawn = [clip for batches in small for batch in batches for _, clip in batch]
    assert len(set(drawn)) == len(drawn) == 84 // (2 * world) * 2 * world


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_over_ranks_counts_every_clip_once(data, world):
    hands = HandData(_config(data))
    seen = []
    for rank in range(world):
        for batch in hands.validation_loader(rank, world):
            seen += batch.sample_index[batch.sample_index >= 0].tolist()
    alone = [i for b in hands.validation_loader() for i in b.sample_index[b.sample_index >= 0].tolist()]
    assert sorted(seen) == sorted(alone) and len(set(seen)) == len(seen)


def test_filtered_rows_carry_no_loss_but_stay_in_their_clips(shards):
    rows = load_rows(shards.table, DataFiltering(min_confidence=1.0))
    assert rows.valid.all()
    table = shards.table.set_column(
        shards.table.column_names.index("confidence"), "confidence", [[0.5] + [1.0] * (shards.table.num_rows - 1)]
    )
    rows = load_rows(table, DataFiltering(min_confidence=0.9))
    assert rows.valid.sum() == len(rows) - 1
    assert not rows.valid[0]


@pytest.mark.parametrize(
    ("column", "filtering"),
    [
        ("occlusion", {"max_occlusion_level": 0.4}),
        ("truncation", {"max_truncation": 0.4}),
        ("blur", {"max_blur": 0.4}),
        ("fitting_err", {"max_fitting_err": 0.4}),
    ],
)
def test_each_measure_of_quality_can_filter(shards, column, filtering):
    high = np.arange(shards.table.num_rows) % 3 == 0
    values = pa.array(np.where(high, 0.5, 0.1), pa.float32())
    table = shards.table.set_column(shards.table.column_names.index(column), column, values)
    assert load_rows(table, DataFiltering()).valid.all()
    np.testing.assert_array_equal(load_rows(table, DataFiltering(**filtering)).valid.numpy(), ~high)


def test_sampler_is_a_function_of_seed_and_epoch():
    groups = [np.arange(11), np.arange(11, 20)]
    sampler = ClipSampler(groups, None, 4, seed=5)
    assert len(sampler) == 5
    whole = list(sampler)
    assert sorted(clip for batch in whole for _, clip in batch) == list(range(20))
    sampler.first_batch = 3
    assert list(sampler) == whole[3:]
    sampler.go_to(1)
    assert list(sampler) != whole and len(list(sampler)) == 5
    halves = [list(ClipSampler(groups, None, 2, seed=5, rank=rank, world=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert sorted(first + second) == sorted(batch)
    weighted = ClipSampler(groups, [1.0, 3.0], 4, seed=5).order(0)
    assert (weighted >= 11).sum() == 15 and (weighted < 11).sum() == 5


def _config(data, **changes):
    values = {"image_size": 64, "backbone_size": "tiny", "clip_length": 2, "num_workers": 0, "batch_size": 2}
    return TrainingConfig(**{**values, "training_data_dir": str(data / "shards"), **changes})


def test_splits(data):
    default = HandData(_config(data))
    assert (default.split.training, default.split.validation) == (["s01"], ["s05"])
    swapped = HandData(_config(data, val_subjects=["s01"]))
    assert swapped.split.validation == ["s01"]
    assert swapped.split.training == ["s05"]
    halves = HandData(_config(data, val_fraction=0.5))
    assert len(halves.split.training) == len(halves.split.validation) == 1
    with pytest.raises(ConfigError, match="s07"):
        HandData(_config(data, val_subjects=["s07"]))
    assert len(HandData(_config(data, limit_val_batches=2)).validation_clips) == 4


def test_a_mixture_holds_out_what_each_member_states(data, tmp_path):
    """Other datasets have their own subject names; no validation or test subject is trained on, in any order."""
    write_shards(tmp_path / "other", data / "mano", subjects=("b1", "b2", "b3"))
    subjects = {"train": ["b1"], "val": ["b2"], "test": ["b3"]}
    protocol = SplitProtocol("dexycb", (), subjects, {split: [] for split in subjects}, "published")
    atomic_write_json(tmp_path / "other" / PROTOCOLS_FILE, {"dexycb": protocol.to_dict()})
    members = [{"path": str(data / "shards")}, {"path": str(tmp_path / "other")}]
    for order in (members, members[::-1]):
        config = _config(data, training_data_dir=order)
        for configured in (config, with_recorded_split(config)):
            split = HandData(configured).split
            assert (split.training, split.validation) == (["b1", "s01"], ["b2", "s05"])
    assert with_recorded_split(config).val_subjects == ["b2", "s05"]
    alone = HandData(_config(data, training_data_dir=str(tmp_path / "other")))
    assert (alone.split.training, alone.split.validation) == (["b1"], ["b2"])
    halves = HandData(_config(data, training_data_dir=members, val_fraction=0.5)).split
    assert not any("b3" in name for name in (*halves.training, *halves.validation))


def test_nothing_to_validate_on_names_the_options(data, tmp_path):
    write_shards(tmp_path, data / "mano", subjects=("s01",))
    config = _config(data, training_data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"--val-subjects.*--val-fraction"):
        HandData(config)
    assert HandData(config.changed(validation_data_dir=str(data / "shards"))).split.rule == "validation_data_dir"
    with pytest.raises(ConfigError, match="does not exist"):
        HandData(_config(data, training_data_dir=str(tmp_path / "absent")))


def test_mean_parameters_are_those_of_the_training_hands(data):
    pose, betas, camera = HandData(_config(data)).mean_parameters()
    rows = load_rows(open_shards(data / "shards", ["s01"]).table)
    torch.testing.assert_close(betas, rows.betas.mean(0), atol=1e-5, rtol=0)
    columns = pose.view(16, 2, 3)
    torch.testing.assert_close(columns.norm(dim=-1), torch.ones(16, 2), atol=1e-5, rtol=0)
    angle = torch.einsum("nij,ij->n", rows.rotmats[:, 3], _rotation(columns[3]))  # trace of R^T mean
    assert (angle > 1.0).all()
    assert 2.0 < camera[0] < 30.0


def _rotation(columns):
    a, b = columns
    return torch.stack((a, b, torch.linalg.cross(a, b)), dim=-1)


def test_a_damaged_crop_is_named(shards):
    rows = load_rows(shards.table)
    clips = training_clips(shards.table, 2, 2, rows.valid.numpy())

    class Cut:
        table = shards.table

        def jpeg(self, index):
            return shards.jpeg(index)[:60]

    with pytest.raises(DataError, match="s01/box_grab_01/0/00000/left"):
        ClipDataset(Cut(), rows, clips, 64)[[0]]


def test_decoded_crops_are_kept_up_to_the_limit(shards):
    rows = load_rows(shards.table)
    clips = training_clips(shards.table, 2, 2, rows.valid.numpy())
    one = simplejpeg.decode_jpeg(shards.jpeg(0), "RGB").nbytes
    dataset = ClipDataset(shards, rows, clips, 64, cache_bytes=3 * one)
    plain = ClipDataset(shards, rows, clips, 64)
    for _ in range(2):
        assert torch.equal(dataset[[0, 1, 2]].images, plain[[0, 1, 2]].images)
    assert 0 < dataset._decoded_bytes <= 3 * one


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_images_made_on_the_device_are_those_of_the_loader(shards, augmentation):
    """Up to the loader's rounding to 8 bits and OpenCV's steps of 1/32 px; labels are the same bits."""
    rows = load_rows(shards.table)
    clips = training_clips(shards.table, 3, 2, rows.valid.numpy())
    options = {"augmentation": augmentation, "seed": 1}
    keys = [(2, clip) for clip in range(len(clips))]
    loader = ClipDataset(shards, rows, clips, 64, **options)[keys]
    stored = ClipDataset(shards, rows, clips, 64, warps_later=True, **options)[keys]
    assert stored.crops.dtype == torch.uint8 and len(stored) == len(loader)
    device = stored.to("cpu")
    levels = (device.images - loader.images).abs() * 255 * IMAGENET_STD[:, None, None]
    assert levels.mean() < 1.5 and levels.quantile(0.99) < 8  # images of noise: the hardest case for 1/32 px
    for name in ("box_center_px", "box_size_px", "intrinsics", "sample_index", "is_right"):
        assert torch.equal(getattr(device, name), getattr(loader, name)), name
    assert torch.equal(device.target.joints_crop, loader.target.joints_crop)


def test_warping_finds_each_pixel_and_pads_around():
    """A shift by whole pixels copies pixels exactly; outside lies the padding, which normalises to about 0."""
    crops = torch.arange(2 * 5 * 6 * 3, dtype=torch.uint8).view(2, 5, 6, 3)
    maps = torch.tensor([[[1.0, 0, 2], [0, 1, 1]], [[1.0, 0, -4], [0, 1, 0]]], dtype=torch.float64)
    images = warp_crops(crops, maps, torch.ones(1, 3), 4)
    assert images.shape == (1, 2, 3, 4, 4)
    values = (images * IMAGENET_STD[:, None, None] + IMAGENET_MEAN[:, None, None]) * 255
    torch.testing.assert_close(values[0, 0].permute(1, 2, 0), crops[0, 1:5, 2:6].float(), atol=1e-3, rtol=0)
    assert images[0, 1].abs().max() < 0.01  # from 4 to 1 px left of the crop
    brighter = warp_crops(crops, maps, torch.tensor([[1.0, 1.5, 1.0]]), 4)
    again = (brighter * IMAGENET_STD[:, None, None] + IMAGENET_MEAN[:, None, None]) * 255
    torch.testing.assert_close(again[0, 0, 1], 1.5 * values[0, 0, 1], atol=1e-3, rtol=0)
