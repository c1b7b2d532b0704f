"""BIDS names, sidecars and the description of the output dataset."""
