"""Network weights as files: reading, writing and locating them."""
