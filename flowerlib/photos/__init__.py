"""Photographs of one's own.

Read `photo` first (any picture as a square), then `folder` (a folder as a dataset), `classifier` (a trained model asked
about pictures) and `export` (the model for other programs).
"""
