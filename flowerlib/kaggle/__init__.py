"""Send the series to Kaggle and bring the submission back. Imported by no notebook."""
