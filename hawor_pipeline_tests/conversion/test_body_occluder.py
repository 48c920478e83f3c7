"""The person's own body as an occluder: against smplx, against the renderer's depth buffer, and where it is missing."""

import json
import shutil

import numpy as np
import pytest
import torch

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects, prepare
from hawor_pipeline.conversion.visibility import Body, SkinFaces, joint_visibility
from hawor_pipeline.core.body import BODY_POSE_PARTS, bone_motions, skin
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.locate import find_body_models
from hawor_pipeline.sample.projection import to_fine
from hawor_pipeline.sample.render import SequencePainter
from hawor_pipeline.sample.sequence import SKIN_STREAM, build_motion, view_painter
from hawor_pipeline.sample.spec import SampleSpec, plan_sequences
from hawor_pipeline.sample.studio import make_look, subject_generator
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.shards.dataset_metadata import build_metadata
from hawor_pipeline.shards.manifest import read_manifest
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.arctic_reader import ArcticReader
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.untrusted.smplx_files import find_smplx, load_smplx

SPEC = SampleSpec(subjects=("s02", "s05"), sequences_per_subject=1, frames=24, image_scale=0.1, tempo=3)
SETTINGS = {"target_resolution": (64, 64)}
BEHIND_M = 0.06  # a joint lies inside its own hand, at most this deep


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A sample with all nine views, whose motion has many poses."""
    folder = tmp_path_factory.mktemp("bodies")
    ensure_sample(folder, SPEC, workers=1)
    return folder


@pytest.fixture(scope="module")
def shards(root):
    """The same sample converted with and without the body."""
    prepare(root / "arctic", root / "with", settings=SETTINGS, workers=0)
    prepare(root / "arctic", root / "without", settings=SETTINGS, smplx_dir="none", workers=0)
    return {True: root / "with", False: root / "without"}


def hidden_in_the_images(root, shards, plan):
    """For each row: view, joints called visible, and those of them that the depth buffer puts behind a surface."""
    mano = root / "body_models" / "mano"
    motion, rigs = build_motion(mano, SPEC, plan)
    look, spots = make_look(plan.subject, SPEC.seed), subject_generator(SPEC.seed, plan.subject, SKIN_STREAM)
    scene = SequencePainter.prepare(motion, rigs, look, spots)
    painters = {view: view_painter(scene, motion, SPEC, plan, view) for view in SPEC.views}
    names = ("view", "frame", "joints_px", "joints_cam_m", "joint_visible", "joint_in_frame")
    rows = open_shards(shards, [plan.subject], columns=list(names))
    found = []
    for values in zip(*(rows.column(name) for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        painter = painters[row["view"]]
        index = row["frame"] - 1
        _, depth, corner = painter.buffers(index, painter.backdrop.at(index))
        pixels = np.asarray(row["joints_px"], np.float32).reshape(21, 2)
        x, y = np.rint(to_fine(pixels, corner[:2])).astype(int).T
        inside = np.asarray(row["joint_in_frame"], bool) & (x >= 0) & (y >= 0)
        inside &= (x < depth.shape[1]) & (y < depth.shape[0])
        surface = np.full(21, np.inf)
        surface[inside] = depth[y[inside], x[inside]]
        behind = surface < np.asarray(row["joints_cam_m"]).reshape(21, 3)[:, 2] - BEHIND_M
        visible = np.asarray(row["joint_visible"], bool)
        found.append((row["view"], visible.sum(), (visible & behind).sum(), 21, (~visible & ~behind & inside).sum()))
    return np.array(found)


@pytest.mark.slow
def test_joints_called_visible_are_not_behind_what_was_drawn(root, shards):
    """Independent truth: the depth buffer of the renderer, which draws the person by other code."""
    rates = {}
    for with_body, folder in shards.items():
        found = np.concatenate([hidden_in_the_images(root, folder, plan) for plan in plan_sequences(SPEC)])
        by_view = [found[found[:, 0] == view].sum(0) for view in SPEC.views]
        rates[with_body] = found[:, 2].sum() / found[:, 3].sum(), max(part[2] / part[3] for part in by_view)
    assert rates[True][0] <= 0.005 and rates[True][1] <= 0.02
    assert rates[False][0] > 3 * max(rates[True][0], 0.002), "the case has no joint behind the body"


def test_the_body_only_hides(shards):
    """No joint becomes visible, and nothing but visibility and what follows from it changes."""
    for subject in SPEC.subjects:
        one, other = (open_shards(shards[with_body], [subject]) for with_body in (True, False))
        changed = {name for name in one.table.column_names if not one.table[name].equals(other.table[name])}
        assert {"joint_visible", "occlusion"} <= changed <= {"joint_visible", "occlusion", "confidence"}
        seen, before = one.column("joint_visible"), other.column("joint_visible")
        assert not (seen & ~before).any()


def test_manifests_and_metadata_record_the_body(root, shards, tmp_path):
    for with_body, folder in shards.items():
        assert read_manifest(folder, "s02").body_occluder is with_body
        info = build_metadata(folder, root / "arctic", tmp_path / str(with_body)).info
        assert info["body_occluder"] is with_body
        assert json.loads((tmp_path / str(with_body) / "manifest.json").read_text())["body_occluder"] is with_body
    mixed = tmp_path / "mixed"
    shutil.copytree(shards[True] / "s02", mixed / "s02")
    shutil.copytree(shards[False] / "s05", mixed / "s05")
    assert build_metadata(mixed, root / "arctic", tmp_path / "metadata").info["body_occluder"] is False


def test_skinning_equals_that_of_smplx(root):
    smplx = pytest.importorskip("smplx")
    arrays = load_smplx(find_smplx(root / "body_models" / "smplx", "female"))
    rng = torch.Generator().manual_seed(0)
    poses = {name: torch.randn(2, 3 * bones, generator=rng) * 0.4 for name, bones in BODY_POSE_PARTS.items()}
    shift = torch.randn(2, 3, generator=rng)
    layer = smplx.create(
        str(root / "body_models"), "smplx", gender="female", use_pca=False, flat_hand_mean=True, batch_size=2
    )
    with torch.no_grad():
        theirs = layer(**poses, transl=shift)
    rotations = axis_angle_to_rotmat(torch.cat(list(poses.values()), 1).view(2, 55, 3))
    template = torch.from_numpy(arrays.template)
    joints = torch.from_numpy(arrays.joint_regressor) @ template
    motions = bone_motions(rotations, joints, shift)
    ours = skin(template, torch.from_numpy(arrays.skin_weights), torch.from_numpy(arrays.pose_dirs), rotations, motions)
    assert (ours - theirs.vertices).abs().max() < 2e-5
    placed = (motions[..., :3] @ joints[..., None])[..., 0] + motions[..., 3]
    assert (placed - theirs.joints[:, :55]).abs().max() < 2e-5


def test_the_head_hides_from_outside_and_not_from_its_own_camera(root):
    reader = ArcticReader(root / "arctic", root / "body_models" / "mano")
    reader.smplx_dir = root / "body_models" / "smplx"
    ref = reader.sequences("s02")[0]
    (take,) = reader.takes(ref, None, SPEC.views)
    moment = take.body.at(0)
    head = moment.motions[15, :, :3] @ moment.surface.joints[15].numpy() + moment.motions[15, :, 3]
    middle, step = head + np.array([0.0, 0.0, 0.07]), np.array([0.0, 0.5, 0.0])
    behind, before = middle - step, middle + step
    models = load_hand_models(reader.mano_dir, reader.convention)
    arrays = models.arrays["right"]
    skins = SkinFaces.from_models({"right": arrays.faces}, {"right": arrays.skin_weights})
    vertices = arrays.template - arrays.template.mean(0) + before
    joints = np.repeat(vertices[[744]], 21, 0)
    for worn, expected in ((False, False), (True, True)):
        given = {"right": vertices}, {"right": joints}, behind[None], skins, ()
        seen = joint_visibility(*given, Body(moment, [worn]))["right"]
        plain = joint_visibility(*given)["right"]
        assert (seen == (plain & expected)).all() and plain.any()


@pytest.mark.parametrize("name", ["smplx.npy", "s05.obj", "SMPLX"])
def test_a_sequence_without_its_body_is_converted_without_unless_it_is_asked_for(raw_copy, tmp_path, name):
    models = raw_copy.parent / "body_models"
    (lost,) = {
        "smplx.npy": [*raw_copy.glob("raw_seqs/s05/*.smplx.npy")],
        "s05.obj": [raw_copy / "meta" / "subject_vtemplates" / "s05.obj"],
        "SMPLX": [models / "smplx"],
    }[name]
    shutil.move(lost, tmp_path / "moved")
    given = {"subjects": ["s05"], "settings": SETTINGS, "mano_dir": models / "mano", "workers": 0}
    totals = prepare(raw_copy, tmp_path / "out", **given)
    assert totals["rows"] and totals["body_occluder"] is False
    assert not read_manifest(tmp_path / "out", "s05").sequences[0].body_occluder
    error = ConfigError if name == "SMPLX" else DataError
    with pytest.raises(error, match=rf"{name}.*(--smplx-dir|download)"):
        prepare(raw_copy, tmp_path / "asked", smplx_dir=models / "smplx", **given)
    shutil.move(tmp_path / "moved", lost)  # what was missing arrives: the sequence is converted again
    again = prepare(raw_copy, tmp_path / "out", **given)
    assert again["converted_sequences"] == 1 and again["body_occluder"] is True


def test_a_damaged_body_is_an_error(raw_copy, tmp_path):
    mano, settings = raw_copy.parent / "body_models" / "mano", ConversionConfig(target_resolution=(64, 64))
    (file,) = raw_copy.glob("raw_seqs/s05/*.smplx.npy")
    kept = np.load(file, allow_pickle=True).item()
    for name, value, message in (
        ("transl", kept["transl"] * 1000, "metres"),
        ("body_pose", kept["body_pose"][:-1], "body_pose has shape"),
        ("jaw_pose", np.full_like(kept["jaw_pose"], np.nan), "not finite"),
        ("global_orient", None, "found no array"),
    ):
        values = {**kept, name: value}
        if value is None:
            del values[name]
        np.save(file, values, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            convert_subjects(raw_copy, mano, ["s05"], tmp_path / "out", settings, workers=0)


def test_where_the_body_models_are_looked_for(root, tmp_path, monkeypatch):
    arctic, models = root / "arctic", root / "body_models" / "smplx"
    assert find_body_models("synthetic", None, arctic) == models
    assert find_body_models("synthetic", "none", arctic) is None
    assert find_body_models("arctic", None, arctic) is None, "the sample's body is not SMPL-X"
    monkeypatch.setenv("SMPLX_DIR", "none")
    assert find_body_models("synthetic", None, arctic) is None
    monkeypatch.setenv("SMPLX_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="SMPLX_NEUTRAL"):
        find_body_models("arctic", None, tmp_path / "elsewhere" / "arctic")
    with pytest.raises(ConfigError, match=r"smpl-x\.is\.tue\.mpg\.de"):
        find_body_models("synthetic", tmp_path, arctic)


def test_a_file_that_is_not_smplx_is_named(root, tmp_path):
    good = dict(np.load(find_smplx(root / "body_models" / "smplx", "male")))
    file = tmp_path / "SMPLX_MALE.npz"
    tree = good["kintree_table"]
    for name, value in (("weights", good["weights"][:-1]), ("posedirs", np.array("text")), ("kintree_table", 0 * tree)):
        np.savez(file, **{**good, name: value})
        with pytest.raises(DataError, match="SMPL-X"):
            load_smplx(file)
    # the official archive has arrays of objects, which are not opened
    np.savez(file, **good, joint2num=np.array({"pelvis": 0}, dtype=object))
    assert load_smplx(file).faces.shape == (20908, 3)
