"""Your own photographs: as a dataset to train on, and as input of a trained model.

What lives here, in the order to read it:
    photo: decode any image to a square of pixels
    jpeg: strip the metadata of a JPEG
    listing: list the photographs and classes of a folder or a CSV file
    chunks: prepare photographs in parallel, resumable
    splitting: near-duplicate groups and stratified splits
    folder: convert a folder of photographs into a dataset
    classification: classify photographs with a trained model
    export: the model in other formats
"""
