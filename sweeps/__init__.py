"""Search spaces: YAML data that people edit (no logic here)."""
