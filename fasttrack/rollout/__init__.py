"""Rollouts of a challenger beside the champion: sticky arms, always-valid sequential tests, promotion and rollback."""
