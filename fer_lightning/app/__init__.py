"""The browser app: predictions for uploaded images, with the models and runs of this machine.

`command` starts it and Streamlit runs `script`; `faces_page` and `runs_page` are its two pages.
"""
