"""Images of results: gallery, film, sample pages, viewer.

Computing errors belongs in `evaluation`; page layout belongs in `reporting`.
"""
