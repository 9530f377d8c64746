"""HTTP over the services: one family of routes a folder, none of which imports another."""
