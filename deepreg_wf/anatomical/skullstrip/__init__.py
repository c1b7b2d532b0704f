"""Brain extraction: one module per method, and the choice between them."""
