"""Evaluation: `statistics` of a dataset, `errors` of a model, `ensemble` of several."""
