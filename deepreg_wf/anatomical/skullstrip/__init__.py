"""Brain extraction: one module for each method, and the choice between them."""
