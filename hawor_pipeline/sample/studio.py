"""The recording studio of each subject: looks, room, eight cameras around the subject and one lens on the head.

World frame: metres, z up, the person near the origin facing +y. Every subject has its own room, light, skin, clothes
and calibration, all drawn from the subject's generator. Colours are linear RGB in 0..1 unless a name contains sRGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from hawor_pipeline.sample.hand_motion import WORKSPACE_M
from hawor_pipeline.sample.spec import SUBJECTS

GENDERS = dict.fromkeys(SUBJECTS, "male") | dict.fromkeys(("s01", "s02", "s05", "s08", "s09"), "female")
FULL_WIDTH, FULL_HEIGHT = 2800, 2000
PORTRAIT = ("s04", 6)  # one camera is mounted upright, so that code cannot assume one image size
# A wide lens: barrel distortion that grows to 12 % at the corners, one-to-one far beyond them.
EGO_DISTORTION = np.array([0.3172, 0.0213, 0.00042, -0.00031, 0.00011, 0.5514, 0.0613, 0.00073])
EGO_FOCAL_PX = 1480.0


@dataclass(frozen=True)
class Camera:
    """One camera of a rig: `intrinsics` of images of (height, width); `cam_from_world` is None for the ego view."""

    view: int
    height: int
    width: int
    intrinsics: np.ndarray  # (3, 3)
    cam_from_world: np.ndarray | None  # (4, 4)
    distortion: np.ndarray  # (8,)


@dataclass(frozen=True)
class Look:
    """Appearance of one subject and of the light around it."""

    skin: np.ndarray
    shirt: np.ndarray
    trousers: np.ndarray
    hair: np.ndarray
    sleeve_start: float  # share of the arm, wrist 0 to shoulder 1, where the sleeve begins
    light_direction: np.ndarray  # (2, 3) unit, towards the lights
    light_colour: np.ndarray  # (2, 3)
    ambient: np.ndarray  # (2, 3) from above, from below
    betas: dict[str, np.ndarray]
    heading: float


def subject_generator(seed: int, subject: str, stream: int) -> np.random.Generator:
    """Return the random generator of one subject; `stream` separates looks, cameras, room and sequences."""
    return np.random.default_rng([seed, SUBJECTS.index(subject), stream])


_SKIN_SRGB = (
    (233, 196, 172),
    (224, 172, 140),
    (198, 142, 108),
    (174, 118, 84),
    (141, 92, 66),
    (104, 68, 50),
    (80, 54, 42),
)
_SKIN_OF = dict(zip(SUBJECTS, (1, 3, 0, 5, 2, 1, 6, 0, 4, 2), strict=True))
_CLOTHES_SRGB = ((36, 42, 60), (150, 40, 44), (60, 96, 70), (196, 190, 178), (30, 30, 32), (92, 110, 150),
                 (178, 130, 60), (110, 70, 110), (70, 76, 82), (40, 110, 120))  # fmt: skip


def to_linear(srgb) -> np.ndarray:
    """Convert sRGB 0..255 to linear 0..1."""
    return (np.asarray(srgb, float) / 255.0) ** 2.2


def make_look(subject: str, seed: int) -> Look:
    """Draw the looks of one subject."""
    rng = subject_generator(seed, subject, 0)
    number = SUBJECTS.index(subject)
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 2.2)
    key = np.array([np.cos(azimuth), np.sin(azimuth), height])
    fill = np.array([-np.cos(azimuth + rng.uniform(-0.6, 0.6)), -np.sin(azimuth), rng.uniform(0.2, 1.0)])
    warmth = rng.uniform(-0.09, 0.12)
    warm = np.array([1 + warmth, 1.0, 1 - 1.3 * warmth])
    size = rng.normal(-0.3 if GENDERS[subject] == "female" else 0.5, 0.6)
    betas = np.concatenate([[size], rng.normal(0, 0.8, 9)])
    directions = np.stack([key, fill])
    return Look(
        skin=to_linear(np.array(_SKIN_SRGB[_SKIN_OF[subject]]) + rng.normal(0, 4, 3)),
        shirt=to_linear(_CLOTHES_SRGB[number]),
        trousers=to_linear(_CLOTHES_SRGB[(number + 4) % 10]) * 0.6,
        hair=to_linear(rng.uniform(20, 90) * np.array([1.0, 0.8, 0.62])),
        sleeve_start=float(rng.uniform(0.42, 0.66)),
        light_direction=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        light_colour=np.stack([warm * rng.uniform(0.62, 0.85), (2 - warm) * rng.uniform(0.12, 0.28)]),
        ambient=np.stack([warm * rng.uniform(0.30, 0.42), np.array([0.9, 0.95, 1.0]) * rng.uniform(0.12, 0.2)]),
        betas={"right": betas.astype(np.float32), "left": (betas + rng.normal(0, 0.12, 10)).astype(np.float32)},
        heading=float(rng.uniform(-0.5, 0.5)),
    )


def look_at(eye: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """Return cam_from_world (4, 4) of an upright camera at `eye` with `target` in the image centre."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    transform = np.eye(4)
    transform[:3, :3] = np.stack([right, down, forward])
    transform[:3, 3] = -transform[:3, :3] @ eye
    return transform


def make_cameras(subject: str, seed: int, scale: float) -> list[Camera]:
    """Draw nine cameras, index = view; image sizes and intrinsics are those of ARCTIC times `scale`."""
    rng = subject_generator(seed, subject, 1)
    cameras = []
    heading = make_look(subject, seed).heading
    centre = _turn_z(heading) @ (WORKSPACE_M + np.array([0, 0, 0.01]))
    elevations = np.radians([14, 36, 24, 56, 50, 30, 12, 42]) + rng.normal(0, 0.04, 8)
    # The person faces azimuth 90 degrees; cameras behind it look steeply over its shoulders.
    azimuths = heading + np.radians(90 - 22.5 - 45.0 * np.arange(8)) + rng.normal(0, 0.06, 8)
    for view in range(9):
        portrait = (subject, view) == PORTRAIT
        width, height = (FULL_HEIGHT, FULL_WIDTH) if portrait else (FULL_WIDTH, FULL_HEIGHT)
        focal = EGO_FOCAL_PX if view == 0 else rng.uniform(3000, 3300)
        middle = np.array([(width - 1) / 2, (height - 1) / 2]) + rng.normal(0, 12, 2)
        intrinsics = np.array([[focal, 0, middle[0]], [0, focal * rng.normal(1, 6e-4), middle[1]], [0, 0, 1]])
        pose = None
        if view > 0:
            elevation, azimuth = elevations[view - 1], azimuths[view - 1]
            flat = np.cos(elevation)
            ray = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)])
            eye = centre + ray * rng.uniform(1.08, 1.28)
            pose = look_at(eye, centre + rng.normal(0, 0.02, 3), rng.normal(0, 0.03))
        cameras.append(scale_camera(Camera(view, height, width, intrinsics, pose,
                                           EGO_DISTORTION if view == 0 else np.zeros(8)), scale))  # fmt: skip
    return cameras


def scale_camera(camera: Camera, scale: float) -> Camera:
    """Return the camera with images `scale` times as large; pixel centres stay at integers."""
    width, height = round(camera.width * scale), round(camera.height * scale)
    intrinsics = camera.intrinsics.copy()
    intrinsics[0] *= width / camera.width
    intrinsics[1] *= height / camera.height
    # With pixel centres at integers u + 0.5 scales, not u: u' = s (u + 0.5) - 0.5 moves the centre by (s - 1) / 2.
    intrinsics[0, 2] += (width / camera.width - 1) / 2
    intrinsics[1, 2] += (height / camera.height - 1) / 2
    return Camera(camera.view, height, width, intrinsics, camera.cam_from_world, camera.distortion)


def body_rotation(look: Look) -> np.ndarray:
    """Return the world-from-body rotation (3, 3), a turn by the person's heading."""
    return _turn_z(look.heading)


def _turn_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


# ---------------------------------------------------------------------------------------------------------- the room
_TILE = 512  # pixels of one surface in the atlas


@dataclass(frozen=True)
class Room:
    """A box with a table in it, as one texture atlas (sRGB uint8): four walls, ground, ceiling, table."""

    low: np.ndarray  # (3,)
    high: np.ndarray  # (3,)
    table_low: np.ndarray  # (3,) corner of the table top
    table_high: np.ndarray
    table_colour: np.ndarray  # (3,) linear
    atlas: np.ndarray  # (512, 7 * 512, 3)

    def image(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Render the empty room along world-frame rays (H, W, 3) from `origin` (3,): sRGB (H, W, 3) uint8."""
        rays = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays.astype(np.float32))
        origin = origin.astype(np.float32)
        distance = (np.where(rays > 0, self.high.astype(np.float32), self.low.astype(np.float32)) - origin) / rays
        axis = np.argmin(distance, axis=-1)
        nearest = np.take_along_axis(distance, axis[..., None], -1)
        ahead = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
        surface = 2 * axis + ahead  # x-, x+, y-, y+, ground, ceiling
        share = (origin + nearest * rays - self.low.astype(np.float32)) / (self.high - self.low).astype(np.float32)
        u = np.where(axis == 0, share[..., 1], share[..., 0])
        v = np.where(axis == 2, share[..., 1], share[..., 2])
        to_table = (self.table_high[2] - origin[2]) / rays[..., 2]
        hit = (origin + to_table[..., None] * rays)[..., :2]
        table_share = (hit - self.table_low[:2].astype(np.float32)) / (self.table_high - self.table_low)[:2]
        on_table = (to_table > 0) & (np.abs(table_share - 0.5) < 0.5).all(axis=-1) & (to_table < nearest[..., 0])
        surface = np.where(on_table, 6, surface)
        u, v = np.where(on_table, table_share[..., 0], u), np.where(on_table, table_share[..., 1], v)
        map_x = surface * _TILE + np.clip(u * (_TILE - 2), 0, _TILE - 2)
        map_y = (1 - v) * (_TILE - 2)
        return cv2.remap(self.atlas, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)


def _noise(rng: np.random.Generator, cells: tuple[int, int], amplitude: float) -> np.ndarray:
    """Draw smooth noise (tile, tile, 1) from a coarse random grid."""
    grid = rng.normal(0, 1, cells).astype(np.float32)
    return amplitude * cv2.resize(grid, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)[..., None]


def _wood(rng: np.random.Generator, colour: np.ndarray, planks: int) -> np.ndarray:
    image = np.ones((_TILE, _TILE, 3), np.float32) * colour
    image *= 1 + _noise(rng, (6, 220), 0.10) + _noise(rng, (20, 60), 0.05)
    if planks:
        width = _TILE // planks
        for k in range(planks):
            image[:, k * width : (k + 1) * width] *= rng.uniform(0.82, 1.12)
            image[:, k * width : k * width + 2] *= 0.6
    return image


def _wall(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    image = np.ones((_TILE, _TILE, 3), np.float32) * colour
    image *= 1 + _noise(rng, (4, 4), 0.05) + _noise(rng, (80, 80), 0.015)
    image[-22:] *= 0.55
    for _ in range(int(rng.integers(3, 8))):
        w, h = (int(v) for v in rng.integers(30, 150, 2))
        x, y = int(rng.integers(0, _TILE - w)), int(rng.integers(40, _TILE - h - 10))
        panel = to_linear(np.clip(rng.uniform(30, 215) + rng.normal(0, 28, 3), 8, 235)) * rng.uniform(0.5, 1)
        image[y : y + h, x : x + w] = panel * (0.8 + 0.4 * np.linspace(0, 1, h)[:, None, None])
        for _ in range(int(rng.integers(0, 9))):  # books on a shelf, prints in a frame
            a, b = sorted(rng.integers(0, w, 2))
            tint = rng.uniform(0.45, 1.5) * rng.uniform(0.8, 1.2, 3)
            image[y + 4 : y + h - 4, x + a : x + b] *= tint.astype(np.float32)
        image[y : y + 3, x : x + w] *= 0.5
    return image


def _table_top(image: np.ndarray, low: np.ndarray, high: np.ndarray, heading: float) -> np.ndarray:
    """Soften the texture of the table top and add the soft shadow of the hands."""
    centre = _turn_z(heading) @ WORKSPACE_M
    x = low[0] + (np.arange(_TILE) + 0.5) / _TILE * (high[0] - low[0]) - centre[0]
    y = high[1] - (np.arange(_TILE) + 0.5) / _TILE * (high[1] - low[1]) - centre[1]
    shadow = np.exp(-(x[None, :] ** 2 + (y[:, None] + 0.05) ** 2) / (2 * 0.14**2)).astype(np.float32)
    image = 0.5 * image + 0.5 * image.mean(axis=(0, 1))
    return (image * (1 - 0.38 * shadow[..., None])).astype(np.float32)


def make_room(subject: str, seed: int) -> Room:
    """Draw the room of one subject."""
    rng = subject_generator(seed, subject, 2)
    low = np.array([-rng.uniform(2.0, 3.0), -rng.uniform(2.0, 3.0), 0.0])
    high = np.array([rng.uniform(2.0, 3.0), rng.uniform(2.0, 3.0), rng.uniform(2.5, 2.9)])
    paint = to_linear(rng.uniform(120, 225) + rng.normal(0, 14, 3))
    wood = to_linear(np.array([176, 132, 92]) * rng.uniform(0.5, 1.2) + rng.normal(0, 8, 3))
    tiles = [_wall(rng, paint * rng.uniform(0.7, 1.0)) for _ in range(4)]
    tiles.append(_wood(rng, wood * 0.6, int(rng.integers(6, 18))))
    ceiling = np.ones((_TILE, _TILE, 3), np.float32) * 0.72 * (1 + _noise(rng, (5, 5), 0.04))
    tiles.append(ceiling)
    top = to_linear(rng.uniform(60, 215) + rng.normal(0, 9, 3)) if rng.random() < 0.5 else wood
    reach = rng.uniform(0.3, 0.42)
    table_low = np.array([-rng.uniform(0.5, 0.8), rng.uniform(0.1, 0.16), 0.0])
    table_high = np.array([rng.uniform(0.5, 0.8), 0.42 + reach, rng.uniform(0.74, 0.8)])
    tiles.append(_table_top(_wood(rng, top, 0), table_low, table_high, make_look(subject, seed).heading))
    light = make_look(subject, seed).light_colour.sum(axis=0) + 0.25
    atlas = np.clip(np.concatenate([t * light for t in tiles], axis=1), 0, 1) ** (1 / 2.2)
    atlas = cv2.GaussianBlur((atlas * 255).astype(np.uint8), (0, 0), 0.8)
    return Room(
        low=low,
        high=high,
        table_low=table_low,
        table_high=table_high,
        table_colour=top,
        atlas=atlas,
    )
