"""The checks that keep one module out of another, and what runs them. For development: nothing here is deployed."""
