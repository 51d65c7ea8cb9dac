"""Authentication and authorisation: principals, policies, bearer tokens."""
