"""The pretrained networks.

Read `backbones` first, the table of networks; `weights` finds their files, `loading` fills a network to the last array,
`folding` freezes layers and folds batch normalization, `fused_norm` makes it quicker in training.
"""
