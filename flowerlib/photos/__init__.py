"""Your own photographs: as a dataset to train on, and as input of a trained model.

What lives here, in the order to read it:
    photo: decode any image to a square of pixels
    formats, colour, jpeg: which files are pictures; their values as sRGB; a JPEG without its metadata
    listing: list the photographs of a source with their classes and splits
    tree, tables, archives, names: folders, CSV files, zip and tar files, and names of classes as people have them
    preparation, chunks: prepare photographs in parallel, resumable
    splitting: near-duplicate groups and stratified splits
    folder: convert a folder of photographs into a dataset
    classification: classify photographs with a trained model
    labelled, matching, scoring, evaluation_page: score a model on photographs whose classes are known
    export: the model in other formats
"""
