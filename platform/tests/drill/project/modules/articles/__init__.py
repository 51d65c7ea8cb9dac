"""Articles with comments, found by their words. This module uses the extensions fields, search and relations."""
