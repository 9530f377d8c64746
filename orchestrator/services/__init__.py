"""One module a use case: joins features, PatchCore and storage; knows no HTTP."""
