"""Articles with comments. This module uses the extensions membership, paging, relations and search."""
