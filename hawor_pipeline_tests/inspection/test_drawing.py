"""Pictures: meshes land on the pixels they are projected to, nearer ones cover farther ones."""

import numpy as np

from hawor_pipeline.inspection.drawing import rasterize, shade

RED, BLUE = np.array([[1.0, 0, 0]] * 3, np.float32), np.array([[0, 0, 1.0]] * 3, np.float32)


def test_triangle_covers_the_pixels_inside_it_whatever_the_depth() -> None:
    corners = np.array([[10.0, 5.0], [50.0, 8.0], [20.0, 35.0]])
    y, x = np.mgrid[:40, :60]
    inside = np.ones((40, 60), bool)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edge = corners[b] - corners[a]
        inside &= edge[0] * (y - corners[a, 1]) - edge[1] * (x - corners[a, 0]) > 0
    for depth in ([1.0, 1.0, 1.0], [0.5, 2.0, 1.2]):
        _, covered = rasterize(corners, np.array(depth), np.array([[0, 1, 2]]), RED, (40, 60))
        assert (covered.astype(bool) != inside).sum() <= 0.03 * inside.sum() + 6


def test_both_windings_are_drawn_and_the_nearer_one_wins() -> None:
    square = np.array([[5.0, 5.0], [35.0, 5.0], [5.0, 35.0]])
    pixels = np.concatenate((square, square))
    depth = np.array([1.0] * 3 + [0.5] * 3)
    faces = np.array([[0, 1, 2], [3, 5, 4]])
    color, covered = rasterize(pixels, depth, faces, np.concatenate((RED, BLUE)), (40, 40))
    assert covered[10, 10] == 1
    assert color[10, 10].tolist() == [0, 0, 1]


def test_surface_that_faces_the_light_is_brighter() -> None:
    vertices = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1]])
    towards, away = (
        shade(vertices, np.array([[0, 1, 2]]), (0.5, 0.5, 0.5)),
        shade(vertices, np.array([[0, 2, 1]]), (0.5, 0.5, 0.5)),
    )
    assert towards.min() > away.max()
