"""One call of the BIDS-App: from settings to an exit status."""
