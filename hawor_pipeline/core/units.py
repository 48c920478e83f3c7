"""Unit conversions. Inside, everything is metres, radians, seconds; this module holds the only 1000."""

import math

MM_PER_M = 1000.0
DEG_PER_RAD = 180.0 / math.pi
ARCTIC_FPS = 30.0  # frames per second of the ARCTIC recordings


def m_to_mm(value):
    """Metres to millimetres (scalars, arrays, tensors)."""
    return value * MM_PER_M


def mm_to_m(value):
    """Millimetres to metres (scalars, arrays, tensors)."""
    return value / MM_PER_M


def rad_to_deg(value):
    """Radians to degrees (scalars, arrays, tensors)."""
    return value * DEG_PER_RAD
