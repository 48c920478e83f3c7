"""Unit conversions. Values are in metres, radians and seconds elsewhere; this module holds the only 1000."""

import math

MM_PER_M = 1000.0
DEG_PER_RAD = 180.0 / math.pi
ARCTIC_FPS = 30.0  # frames per second of the ARCTIC recordings


def m_to_mm(value):
    """Convert metres to millimetres (scalars, arrays, tensors)."""
    return value * MM_PER_M


def mm_to_m(value):
    """Convert millimetres to metres (scalars, arrays, tensors)."""
    return value / MM_PER_M


def rad_to_deg(value):
    """Convert radians to degrees (scalars, arrays, tensors)."""
    return value * DEG_PER_RAD
