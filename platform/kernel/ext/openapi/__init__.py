"""The OpenAPI document, with the errors and scopes as they are."""
