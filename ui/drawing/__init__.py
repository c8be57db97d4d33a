"""Pictures as every page draws them: values in, markup or a figure out. Pure.

Every page may import it; it imports no page and no Streamlit.
"""
