"""Predictions for a person's own footage: what is written agrees with itself, and left is the mirror image of right."""

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hawor_pipeline.cli import main
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.prediction.footage import Footage
from hawor_pipeline.prediction.predict_footage import predict_footage
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline_tests.models.released_files import write_released_file
from hawor_pipeline_tests.training.conftest import tiny_config
from hawor_pipeline_tests.training.hand_shards import write_mano

HEIGHT, WIDTH, FRAMES, FOCAL = 240, 320, 5, 400.0
HEADER = "image,side,x_min,y_min,x_max,y_max\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network with random weights, hand models, images, and boxes of a right and a mirrored left hand."""
    root = tmp_path_factory.mktemp("footage")
    write_mano(root / "mano")
    torch.manual_seed(0)
    model = HaworModel(NetworkConfig.of_training(tiny_config(root))).eval()
    model.mano_head.set_mean(torch.eye(3)[:, :2].flatten().repeat(16), torch.zeros(10), torch.tensor([7.0, 0.0, 0.0]))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    plain = {"network": model.network.to_dict(), "hyper_parameters": {"config": {"clip_length": 3}}}
    torch.save({"state_dict": state, **plain}, root / "net.ckpt")
    rng = np.random.default_rng(1)
    boxes = [HEADER]
    (root / "images").mkdir()
    for frame in range(FRAMES):
        half = cv2.resize(rng.integers(0, 255, (6, 4, 3), dtype=np.uint8), (WIDTH // 2, HEIGHT))
        cv2.imwrite(str(root / "images" / f"f{frame}.png"), np.concatenate((half, half[:, ::-1]), 1))
        if frame != 2:  # a frame without hands
            boxes.append(f"f{frame}.png,right,30,60,110,180\n")
            boxes.append(f"f{frame}.png,left,{WIDTH - 1 - 110},60,{WIDTH - 1 - 30},180\n")
    (root / "boxes.csv").write_text("".join(boxes))
    return root


@pytest.fixture(scope="module")
def output(place):
    arguments = ["predict", "--checkpoint", place / "net.ckpt", "--input", place / "images", "--boxes"]
    arguments += [place / "boxes.csv", "--focal", FOCAL, "--output", place / "out", "--mano-dir", place / "mano"]
    assert main([str(word) for word in arguments]) == 0
    return place / "out"


def _hands(folder):
    rows = pq.read_table(folder / "hands.parquet").to_pylist()
    return {(row["frame"], row["side"]): {n: np.array(v) for n, v in row.items() if n != "image"} for row in rows}


def read_ply(path):
    """Vertices and faces by the header's own words."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    counts = [int(line.split()[2]) for line in header.decode().splitlines() if line.startswith("element")]
    vertices = np.frombuffer(body[: 12 * counts[0]], "<f4").reshape(-1, 3)
    faces = np.frombuffer(body[12 * counts[0] :], np.dtype([("n", "u1"), ("i", "<i4", 3)]))
    assert (faces["n"] == 3).all() and len(faces) == counts[1]
    return vertices, faces["i"]


def test_one_row_and_one_mesh_per_boxed_hand(output):
    hands = _hands(output)
    assert sorted(hands) == [(frame, side) for frame in (0, 1, 3, 4) for side in ("left", "right")]
    meshes = {path.name for path in (output / "meshes").iterdir()}
    assert meshes == {f"{frame:06d}_{side}.ply" for frame, side in hands}
    metadata = pq.read_schema(output / "hands.parquet").metadata
    assert float(metadata[b"focal_px"]) == FOCAL and len(metadata[b"checkpoint_sha256"]) == 64


def test_parameters_joints_pixels_and_mesh_describe_one_hand(output, place):
    """The body model posed by the table's axis angles gives its joints, the mesh file, and by the camera the pixels."""
    layer = ManoLayer(load_mano(place / "mano", "right")).double()
    for (frame, side), hand in _hands(output).items():
        mirror = torch.tensor([1.0 if side == "right" else -1.0, 1, 1], dtype=torch.float64)
        angles = torch.from_numpy(np.concatenate((hand["global_orient"], hand["hand_pose"])).reshape(16, 3))
        turned = angles if side == "right" else angles * torch.tensor([1.0, -1, -1])
        posed = layer(axis_angle_to_rotmat(turned)[None], torch.from_numpy(hand["betas"])[None])
        translation = torch.from_numpy(hand["translation_m"])
        joints = (posed.joints[0] * mirror + translation).numpy()
        np.testing.assert_allclose(joints, hand["joints_cam_m"].reshape(21, 3), atol=1e-6)
        vertices, faces = read_ply(output / "meshes" / f"{frame:06d}_{side}.ply")
        np.testing.assert_allclose(vertices, (posed.vertices[0] * mirror + translation).numpy(), atol=1e-6)
        expected = layer.faces.numpy() if side == "right" else layer.faces.numpy()[:, ::-1]
        np.testing.assert_array_equal(faces, expected)
        center = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
        pixels = FOCAL * joints[:, :2] / joints[:, 2:] + center
        np.testing.assert_allclose(pixels, hand["joints_px"].reshape(21, 2), atol=1e-3)


def test_the_left_hand_of_a_mirrored_image_is_the_mirrored_right_hand(output):
    """Each image's right half mirrors its left half, and so do the boxes."""
    hands = _hands(output)
    for frame in (0, 1, 3, 4):
        right, left = hands[frame, "right"], hands[frame, "left"]
        np.testing.assert_allclose(left["betas"], right["betas"], atol=0.02)
        mirrored = right["joints_cam_m"].reshape(21, 3) * [-1, 1, 1]
        np.testing.assert_allclose(left["joints_cam_m"].reshape(21, 3), mirrored, atol=0.004)


def test_the_video_has_every_frame_and_meshes_only_where_hands_are(output, place):
    with av.open(str(output / "overlay.mp4")) as video:
        frames = [frame.to_ndarray(format="bgr24").astype(int) for frame in video.decode(video=0)]
        assert float(video.streams.video[0].average_rate) == 30.0
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * FRAMES
    changed = []
    for number, frame in enumerate(frames):
        original = cv2.imread(str(place / "images" / f"f{number}.png")).astype(int)
        changed.append(float((np.abs(frame - original).max(-1) > 60).mean()))
    assert changed[2] < 0.005 < min(changed[:2] + changed[3:])


def test_a_video_gives_what_its_frames_give(place, tmp_path):
    """Losslessly encoded; a video's frames go by number."""
    with av.open(str(tmp_path / "v.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FRAMES):
            image = cv2.imread(str(place / "images" / f"f{number}.png"))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    text = (place / "boxes.csv").read_text()
    for number in range(FRAMES):
        text = text.replace(f"f{number}.png", str(number))
    (tmp_path / "boxes.csv").write_text(text)
    files = (place / "net.ckpt", tmp_path / "v.mkv", tmp_path / "boxes.csv", tmp_path / "out", place / "mano")
    result = predict_footage(*files, focal_px=FOCAL)
    assert (result.frames, result.hands, result.focal_is_assumed) == (FRAMES, 8, False)
    for key, hand in _hands(place / "out").items():
        np.testing.assert_allclose(_hands(tmp_path / "out")[key]["joints_cam_m"], hand["joints_cam_m"], atol=1e-6)


def test_mistakes_are_named_before_anything_is_written(place, output, tmp_path):
    def predict(source=place / "images", boxes=place / "boxes.csv", folder=tmp_path / "new", **more):
        return predict_footage(place / "net.ckpt", source, boxes, folder, place / "mano", **more)

    (tmp_path / "b.csv").write_text(HEADER + "nobody.png,left,1,1,5,5\n")
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"nobody\.png.*f0\.png"):
        predict(boxes=tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"no\.mp4: no readable video"):
        predict(source=tmp_path / "no.mp4")
    with pytest.raises(ConfigError, match="does not exist"):
        predict(source=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="not empty"):
        predict(folder=output)
    with pytest.raises(ConfigError, match="above 0"):
        predict(focal_px=-1.0)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def released(place):
    """A small network in HaWoR's names and file format."""
    torch.manual_seed(3)
    sizes = {"image_size": 64, "dim": 192, "depth": 1, "heads": 3, "head_dim": 64, "head_depth": 1}
    temporal = {"head_feedforward": 64, "st_hdim": 32, "st_nlayer": 1, "motion_hdim": 32, "motion_nlayer": 1}
    model = HaworModel(NetworkConfig(**sizes, **temporal, temporal_feedforward=64))
    model.mano_head.set_mean(torch.eye(3)[:, :2].flatten().repeat(16), torch.zeros(10), torch.tensor([7.0, 0.0, 0.0]))
    for kind in ("hawor", "hamer", "wilor"):
        write_released_file(place / f"{kind}.ckpt", model, kind)
    return place


@pytest.mark.parametrize("kind", ["hawor", "hamer"])
def test_released_files_predict_as_downloaded(released, tmp_path, capsys, kind):
    """By the box of their project, which scales the depth at equal camera; another one can be asked for."""
    words = ["predict", "--checkpoint", released / f"{kind}.ckpt", "--input", released / "images", "--boxes"]
    words += [released / "boxes.csv", "--mano-dir", released / "mano", "--device", "cpu"]
    # the box is 80 x 120 px
    rules = {"hawor": {None: 1.2 * 120, "2,2": 2 * 160}, "hamer": {None: 2 * 120, "pipeline": 1.2 * 120}}[kind]
    for text, side in rules.items():
        folder = tmp_path / (text or "own")
        more = ["--box-rule", text] if text else []
        assert main([str(word) for word in [*words, "--output", folder, *more]]) == 0
        assert "Bounding boxes: " in capsys.readouterr().out
        depth = [hand["translation_m"][2] for hand in _hands(folder).values()]
        focal = np.hypot(HEIGHT, WIDTH)
        np.testing.assert_allclose(depth, 2 * focal / (7.0 * side), rtol=0.02)


@pytest.mark.parametrize(("name", "message"), [("wilor.ckpt", "backbone only"), ("bare.pt", "without the record")])
def test_unusable_weights_are_refused_before_footage_is_read(released, tmp_path, monkeypatch, name, message):
    state = torch.load(released / "net.ckpt", weights_only=True)["state_dict"]
    torch.save({key: value for key, value in state.items() if "_extra_state" not in key}, released / "bare.pt")
    monkeypatch.setattr(Footage, "frames", lambda *_: pytest.fail("footage was decoded"))
    with pytest.raises(CheckpointError, match=message):
        predict_footage(
            released / name, released / "images", released / "boxes.csv", tmp_path / "new", released / "mano"
        )


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("keep", [0.0, 0.4, 2 / 3, 0.97])
def test_an_image_that_is_cut_short_is_refused_by_name(tmp_path, suffix, keep):
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8), (160, 120))
    data = cv2.imencode(suffix, image)[1].tobytes()
    for name in ("a", "b"):
        (tmp_path / f"{name}{suffix}").write_bytes(data)
    assert len(list(Footage(tmp_path).frames())) == 2
    (tmp_path / f"b{suffix}").write_bytes(data[: round(keep * len(data))])
    with pytest.raises(DataError, match=rf"b\{suffix}: damaged"):
        list(Footage(tmp_path).frames())


def test_a_jpeg_with_a_hole_is_refused_and_a_turned_one_is_not(tmp_path):
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8), (320, 240))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter when shown
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif)
    (frame,) = Footage(tmp_path).frames()
    assert frame.image.shape == (320, 240, 3)
    data = (tmp_path / "a.jpg").read_bytes()
    half = len(data) // 2
    (tmp_path / "a.jpg").write_bytes(data[:half] + bytes(512) + data[half + 512 :])
    with pytest.raises(DataError, match=r"a\.jpg: damaged JPEG"):
        list(Footage(tmp_path).frames())
