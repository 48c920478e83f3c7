"""The report of a run: the layout of what evaluation wrote, without torch.

Computing metrics belongs in `evaluation`; images of results belong in `inspection`.
"""
