"""Reading demonstrations: stores, windows, normalisation, formats."""
