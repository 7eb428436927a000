"""TFRecord files: `shards` writes them, `records` reads single records by their position."""
