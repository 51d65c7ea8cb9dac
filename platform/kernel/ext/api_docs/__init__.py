"""The pages of Swagger UI and ReDoc."""
