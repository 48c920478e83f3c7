"""The hand skeleton: joint names, orders and topology of MANO. Plain Python, no tensors.

Two orders exist. MANO's own has 16 joints (wrist, index, middle, pinky, ring, thumb) to which five fingertip
vertices are appended; the OpenPose order (wrist, then thumb to pinky, root to tip) is what this project stores.
"""

# MANO's 16 joints, parent of each (-1: root). Order: wrist, index, middle, pinky, ring, thumb.
MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
# Vertices that serve as fingertips: thumb, index, middle, ring, pinky (the ids smplx and HaMeR use).
TIP_VERTEX_IDS = (744, 320, 443, 554, 671)
# OPENPOSE_FROM_MANO[i] = index, among MANO's 16 joints followed by the five tips, of OpenPose joint i.
OPENPOSE_FROM_MANO = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
JOINT_NAMES = (
    "wrist",
    *(f"thumb_{part}" for part in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{part}" for finger in FINGERS[1:] for part in ("mcp", "pip", "dip", "tip")),
)
# Joint ids of each finger in OpenPose order, root to tip.
FINGER_JOINTS = {finger: tuple(range(1 + 4 * i, 5 + 4 * i)) for i, finger in enumerate(FINGERS)}
# The 20 bones as (parent, child) in OpenPose order.
BONES = tuple((0 if k == 0 else 4 * finger + k, 4 * finger + k + 1) for finger in range(len(FINGERS)) for k in range(4))
JOINT_COUNT = 21
MANO_JOINT_COUNT = len(MANO_PARENTS)
SHAPE_COUNT = 10  # coefficients of MANO's shape space in use
VERTEX_COUNT = 778
FACE_COUNT = 1538
