"""Objects of the sample: unions of rounded boxes and cylinders, in millimetres, and the meshes of their surfaces."""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.sample.articulated_objects import BOTTOM_PART, TOP_PART
from hawor_pipeline.sample.person import grid_faces


@dataclass(frozen=True)
class Solid:
    """A rounded box, or a cylinder along y where `half_mm[0]` is the radius; colour is linear RGB in 0..1."""

    centre_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    colour: tuple[float, float, float]
    round_mm: float = 3.0
    cylinder: bool = False

    @property
    def row(self) -> tuple[float, ...]:
        """The primitive as a row of the file: centre, half size, rounding, 1 for a cylinder."""
        return (*self.centre_mm, *self.half_mm, self.round_mm, self.cylinder)

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (vertices_mm (N, 3), faces (F, 3)), outward oriented."""
        vertices, faces = _cylinder(self) if self.cylinder else _rounded_box(self)
        return vertices + np.asarray(self.centre_mm), faces


def _axis_grid(half: float, round_mm: float, step_mm: float) -> np.ndarray:
    """Return sample positions along one axis of a rounded box, dense where it bends."""
    flat = half - round_mm
    inner = np.linspace(-flat, flat, 2 + int(2 * flat // step_mm))
    return np.concatenate([[-half], inner, [half]]) if round_mm else inner


def _rounded_box(shape: Solid, step_mm: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    half = np.asarray(shape.half_mm)
    round_mm = min(shape.round_mm, *(half * 0.999))
    vertices, faces, count = [], [], 0
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        rows = _axis_grid(half[first], round_mm, step_mm)
        columns = _axis_grid(half[second], round_mm, step_mm)
        for sign in (1.0, -1.0):
            points = np.zeros((len(rows), len(columns), 3))
            points[..., axis] = sign * half[axis]
            points[..., first], points[..., second] = rows[:, None], columns[None, :]
            if round_mm:
                # Points of the sharp box are projected onto a sphere around the nearest point of the inner box.
                core = np.clip(points, -(half - round_mm), half - round_mm)
                offset = points - core
                points = core + round_mm * offset / np.linalg.norm(offset, axis=-1, keepdims=True)
            grid = grid_faces(len(rows), len(columns))
            faces.append((grid if sign > 0 else grid[:, ::-1]) + count)
            vertices.append(points.reshape(-1, 3))
            count += len(rows) * len(columns)
    return np.concatenate(vertices), np.concatenate(faces)


def _cylinder(shape: Solid, sides: int = 28) -> tuple[np.ndarray, np.ndarray]:
    radius, half_height, bend = shape.half_mm[0], shape.half_mm[1], shape.round_mm
    turn = np.linspace(0, np.pi / 2, 4)
    rim_r, rim_y = radius - bend + bend * np.sin(turn), half_height - bend + bend * np.cos(turn)
    middle = np.linspace(half_height - bend, -(half_height - bend), 2 + int(2 * half_height // 30))[1:-1]
    radii = np.concatenate([[1e-3], rim_r, np.full(len(middle), radius), rim_r[::-1], [1e-3]])
    heights = np.concatenate([[half_height], rim_y, middle, -rim_y[::-1], [-half_height]])
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    points = np.stack(
        [
            radii[:, None] * np.cos(angle),
            np.broadcast_to(heights[:, None], (len(radii), sides + 1)),
            radii[:, None] * np.sin(angle),
        ],
        axis=-1,
    )
    return points.reshape(-1, 3), grid_faces(len(radii), sides + 1)[:, ::-1]


def _slab(x: tuple, y: tuple, z: tuple, colour: tuple, round_mm: float = 3.0) -> Solid:
    """Build a rounded box between bounds in mm."""
    low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
    half = (high - low) / 2
    return Solid(tuple((low + high) / 2), tuple(half), colour, min(round_mm, float(half.min()) * 0.95))


def _box() -> tuple:
    w, h, d, wall = 150.0, 85.0, 105.0, 5.0
    card, inside, tape = (0.55, 0.36, 0.2), (0.42, 0.27, 0.15), (0.75, 0.7, 0.6)
    bottom = (
        _slab((-w, 0), (-h, -h + wall), (-d / 2, d / 2), inside),
        _slab((-w, 0), (-h, 0), (-d / 2, -d / 2 + wall), card),
        _slab((-w, 0), (-h, 0), (d / 2 - wall, d / 2), card),
        _slab((-wall, 0), (-h, 0), (-d / 2, d / 2), card),
        _slab((-w, -w + wall), (-h, 0), (-d / 2, d / 2), card),
    )
    top = (
        _slab((-w - 4, 3), (0.5, 0.5 + wall), (-d / 2 - 4, d / 2 + 4), card),
        _slab((-w + 5, -5), (wall, wall + 1.5), (-13, 13), tape, 0.0),
    )
    return top, bottom, (0.0, 1.9)


def _folding(w: float, d: float, thick: tuple, colours: tuple, most: float, panel: tuple, keys: tuple) -> tuple:
    """Build two slabs on a hinge, with panels on the inner faces: laptop, notebook, phone, waffle iron."""
    lower, upper = thick
    inset = min(w, d) * 0.07
    bottom = (
        _slab((-w, 0), (-lower, 0), (-d / 2, d / 2), colours[0], 4.0),
        _slab((-w * 0.95, -w * 0.3), (-0.5, 0.6), (-d / 2 + inset, d / 2 - inset), keys, 0.0),
    )
    top = (
        _slab((-w, 0), (1.2, 1.2 + upper), (-d / 2, d / 2), colours[1], 4.0),
        _slab((-w + inset, -inset), (0.6, 1.6), (-d / 2 + inset, d / 2 - inset), panel, 0.0),
        _slab((-w * 0.6, -w * 0.4), (upper, upper + 1.8), (-d * 0.12, d * 0.12), panel, 0.0),
    )
    return top, bottom, (0.0, most)


def _ketchup() -> tuple:
    red, white = (0.62, 0.05, 0.04), (0.85, 0.83, 0.78)
    bottom = (
        Solid((-24.0, -82.0, 0.0), (30.0, 70.0, 30.0), red, 12.0, True),
        Solid((-24.0, -6.0, 0.0), (19.0, 8.0, 19.0), white, 3.0, True),
        Solid((-24.0, -85.0, 0.0), (30.8, 28.0, 30.8), (0.8, 0.72, 0.5), 0.8, True),
    )
    top = (Solid((-24.0, 18.0, 0.0), (22.0, 16.0, 22.0), white, 6.0, True),)
    return top, bottom, (0.0, 2.0)


def _microwave() -> tuple:
    w, h, d = 95.0, 115.0, 150.0
    shell, dark = (0.68, 0.68, 0.7), (0.06, 0.06, 0.07)
    bottom = (
        _slab((0.5, w), (-h, 0), (-d / 2, d / 2), shell, 6.0),
        _slab((-2, 2), (-h + 8, -8), (d / 2 - 32, d / 2 - 6), dark, 0.0),
    )
    top = (
        _slab((-12, -0.5), (-h, 0), (-d / 2, d / 2 - 36), shell, 4.0),
        _slab((-13, -11), (-h + 14, -14), (-d / 2 + 12, d / 2 - 52), dark, 0.0),
        _slab((-22, -12), (-h + 12, -h + 22), (-d / 2 + 20, d / 2 - 60), (0.3, 0.3, 0.32), 4.0),
    )
    return top, bottom, (0.0, 1.7)


def _capsulemachine() -> tuple:
    """Build a coffee machine for capsules: the lever on top opens it."""
    w, h, d = 110.0, 120.0, 130.0
    shell, dark, steel = (0.5, 0.06, 0.06), (0.06, 0.06, 0.07), (0.6, 0.6, 0.62)
    bottom = (
        _slab((-w, 0), (-h, -h + 22), (-d / 2, d / 2), dark, 5.0),
        _slab((-45, 0), (-h + 20, 0), (-d / 2, d / 2), shell, 8.0),
        _slab((-w, -40), (-42, 0), (-d / 2 + 8, d / 2 - 8), shell, 8.0),
        Solid((-80.0, -50.0, 0.0), (13.0, 9.0, 13.0), steel, 2.0, True),
    )
    top = (
        _slab((-w - 8, 3), (2, 14), (-d / 2 + 20, d / 2 - 20), steel, 4.0),
        _slab((-w - 22, -w - 6), (2, 18), (-d / 2 + 30, d / 2 - 30), dark, 5.0),
    )
    return top, bottom, (0.0, 1.6)


def _espressomachine() -> tuple:
    """Build an espresso machine: the lid of its water tank opens."""
    w, h, d = 125.0, 150.0, 150.0
    shell, dark, steel = (0.62, 0.62, 0.64), (0.07, 0.07, 0.08), (0.5, 0.5, 0.52)
    bottom = (
        _slab((-w, 0), (-h, -h + 26), (-d / 2, d / 2), dark, 4.0),
        _slab((-55, 0), (-h + 24, 0), (-d / 2, d / 2), shell, 6.0),
        _slab((-w, -50), (-60, 0), (-d / 2, d / 2), shell, 6.0),
        Solid((-90.0, -72.0, 0.0), (22.0, 14.0, 22.0), steel, 3.0, True),
        _slab((-w - 55, -w + 20), (-80, -66), (-9, 9), dark, 4.0),
    )
    top = (_slab((-w + 15, 2), (1, 9), (-d / 2 + 6, d / 2 - 6), dark, 3.0),)
    return top, bottom, (0.0, 1.7)


def _mixer() -> tuple:
    """Build a stand mixer: its head tilts up from the bowl."""
    white, steel = (0.78, 0.76, 0.7), (0.6, 0.6, 0.62)
    bottom = (
        _slab((-170, 0), (-150, -132), (-55, 55), white, 8.0),
        _slab((-40, 0), (-140, 0), (-35, 35), white, 10.0),
        Solid((-110.0, -92.0, 0.0), (50.0, 38.0, 50.0), steel, 5.0, True),
    )
    top = (
        _slab((-165, 5), (2, 52), (-36, 36), white, 14.0),
        Solid((-110.0, -10.0, 0.0), (11.0, 14.0, 11.0), steel, 2.0, True),
    )
    return top, bottom, (0.0, 1.1)


def _scissors() -> tuple:
    """Build scissors: two blades with a handle of two bars each, crossed at the hinge."""
    steel, red = (0.62, 0.63, 0.65), (0.6, 0.08, 0.06)

    def blade(z: float, side: float) -> tuple[Solid, ...]:
        low, high = sorted((side * 4.0, side * 34.0))
        near, far = sorted((side * 4.0, side * 12.0))
        outer = high - 8.0 if side > 0 else low
        return (
            _slab((-95, 8), (-6, 6), (z - 1.8, z + 1.8), steel, 1.5),
            _slab((6, 78), (near, far), (z - 4, z + 4), red, 3.0),
            _slab((28, 84), (outer, outer + 8.0), (z - 4, z + 4), red, 3.0),
            _slab((74, 84), (low, high), (z - 4, z + 4), red, 3.0),
            _slab((28, 38), (low, high), (z - 4, z + 4), red, 3.0),
        )

    return blade(2.0, 1.0), blade(-2.0, -1.0), (0.0, 0.9)


_GREY, _BLACK, _PAPER = (0.45, 0.46, 0.48), (0.05, 0.05, 0.055), (0.82, 0.8, 0.74)
OBJECTS = {
    "box": _box,
    "laptop": lambda: _folding(150, 205, (11, 6), (_GREY, _GREY), 2.0, (0.08, 0.16, 0.32), _BLACK),
    "notebook": lambda: _folding(
        125, 165, (9, 3), ((0.1, 0.16, 0.34), (0.12, 0.2, 0.42)), 2.7, (0.78, 0.76, 0.7), _PAPER
    ),
    "phone": lambda: _folding(78, 74, (9, 8), (_BLACK, (0.3, 0.1, 0.14)), 2.6, (0.12, 0.2, 0.3), (0.2, 0.2, 0.22)),
    "waffleiron": lambda: _folding(
        130, 130, (30, 26), ((0.5, 0.07, 0.06), _BLACK), 1.7, (0.2, 0.2, 0.2), (0.24, 0.24, 0.24)
    ),
    "ketchup": _ketchup,
    "microwave": _microwave,
    "capsulemachine": _capsulemachine,
    "mixer": _mixer,
    "espressomachine": _espressomachine,
    "scissors": _scissors,
}


def object_arrays(name: str) -> dict[str, np.ndarray]:
    """Build the arrays of one object, by the fields of `ObjectModel`."""
    top, bottom, reach = OBJECTS[name]()
    vertices, faces, parts, colours, count = [], [], [], [], 0
    for part, solids in ((TOP_PART, top), (BOTTOM_PART, bottom)):
        for solid in solids:
            points, triangles = solid.mesh()
            vertices.append(points)
            faces.append(triangles + count)
            parts.append(np.full(len(points), part))
            colours.append(np.broadcast_to(solid.colour, points.shape))
            count += len(points)
    return {
        "vertices_mm": np.concatenate(vertices),
        "faces": np.concatenate(faces).astype(np.int32),
        "parts": np.concatenate(parts),
        "colours": np.concatenate(colours),
        "top": np.array([solid.row for solid in top]),
        "bottom": np.array([solid.row for solid in bottom]),
        "articulation_range": np.array(reach),
    }
