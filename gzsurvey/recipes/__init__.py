"""Everything written in YAML."""
