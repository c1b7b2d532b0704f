"""Quality control: the measures of a registration and their limits."""
