"""The pages: the only importer of streamlit."""
