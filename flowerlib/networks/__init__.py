"""The pretrained networks.

Read `backbones` first, the table of networks; `weights` finds their files, `loading` fills a network to the last array,
`multiscale` puts their features at several image sizes side by side, `heads` is what classifies features, `folding`
freezes layers and folds batch normalization, `fused_norm` makes it quicker in training.
"""

from flowerlib.networks.backbones import BACKBONES, build, get, load
from flowerlib.networks.folding import fold_batch_norm, freeze
from flowerlib.networks.heads import head
from flowerlib.networks.multiscale import feature_extractor

__all__ = ["BACKBONES", "build", "feature_extractor", "fold_batch_norm", "freeze", "get", "head", "load"]
