"""The bodies of the inspection family, a module a group of routes."""
