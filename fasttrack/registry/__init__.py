"""Model packages, and the registry that versions them: what is served, who approved it, and what it came from."""
