"""Whether the application lives, is ready, has started; and what failed in the past."""
