"""Numbers that others published, for orientation only.

They are second-hand (read in papers' tables or notes, not re-measured) and were made on other data, boxes, splits and
joint sets. One and the same method differs by a factor of two between tables, so they never share a table with measured
numbers, and every row says its caveat.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One published number."""

    method: str
    dataset: str
    metric: str
    value: float
    unit: str
    seen_in: str
    caveat: str


_EGO = "egocentric frames only, other boxes than ours; aligned differently from table to table"
_PA = "Procrustes-aligned: compare with PA-MPJPE, never with the wrist-aligned error"
_WITHHELD = "test subject without public ground truth; joints of both hands averaged per frame"

PUBLISHED = (
    Published("ArcticNet-SF", "ARCTIC p1 test", "MPJPE", 21.5, "mm", "ARCTIC leaderboard notes", _WITHHELD),
    Published("HaMeR", "ARCTIC ego", "P-MPJPE", 9.9, "mm", "EgoHandICL, table", _EGO),
    Published("WiLoR", "ARCTIC ego", "P-MPJPE", 5.5, "mm", "EgoHandICL, table", _EGO),
    Published("HaWoR", "ARCTIC ego", "P-MPJPE", 6.2, "mm", "notes on the HaWoR paper", _EGO),
    Published(
        "WiLoR", "ARCTIC", "PA-MPJPE", 11.87, "mm", "MINT, table", "the same method as above under another protocol"
    ),
    Published(
        "HaWoR", "HOT3D", "PA-MPJPE", 4.79, "mm", "notes on the HaWoR paper", "trained on HOT3D and other sets; " + _PA
    ),
    Published("HaWoR", "DexYCB", "PA-MPJPE", 4.76, "mm", "notes on the HaWoR paper", _PA),
    Published(
        "HaMeR", "FreiHAND", "PA-MPJPE", 6.0, "mm", "papers' tables", "its evaluator lets the alignment mirror the hand"
    ),
    Published(
        "WiLoR", "FreiHAND", "PA-MPJPE", 5.5, "mm", "papers' tables", "its evaluator lets the alignment mirror the hand"
    ),
)
