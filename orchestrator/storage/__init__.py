"""Where artifacts are kept: keys below one root, whole or not at all."""
