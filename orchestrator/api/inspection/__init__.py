"""The inspection family: what the inspection GUI speaks (contract A1)."""
