"""The features. One folder each, with one owner; each may be read, changed and tested by itself."""
