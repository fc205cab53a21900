"""Values and contracts that hold the parts together; imports nothing else of the package."""
