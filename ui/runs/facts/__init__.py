"""What the page says of runs, and what a person can do with them. Draws nothing.

Views of runs, Plan and Accuracy call it; it imports no view and no Streamlit.
"""
