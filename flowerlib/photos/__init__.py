"""Photographs of one's own.

Read `photo` first (any picture as a square), then `folder` (a folder as a dataset), `classification` (a trained model
on photographs) and `export` (the model for other programs).
"""
