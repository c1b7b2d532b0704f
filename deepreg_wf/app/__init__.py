"""One call of the BIDS App: from its settings to its exit status."""
