"""The applications that are compared: the same URLs and answers, written in different ways."""
