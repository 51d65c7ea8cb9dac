"""Authentication and authorisation: principals and policies."""
