"""Images of results: gallery, videos, sample pages, viewer.

Computing errors belongs in `evaluation`; page layout belongs in `reporting`.
"""
