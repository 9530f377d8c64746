"""The newcomer's demo: drawn photographs or a user's own folder, the figures and a contact sheet."""
