"""Search for words in text: `has_words` in a query, and `search_vector` for the index that serves it."""

from kernel.ext.search.words import has_words, search_vector

__all__ = ["has_words", "search_vector"]
