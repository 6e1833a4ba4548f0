"""Statistics only: tables in, tables and words out; runs without torch and without a GPU."""
