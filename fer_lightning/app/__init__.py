"""The app: pictures in a browser, with the models and runs of this machine.

`command` starts it, `script` is what Streamlit runs; `faces_page` and `runs_page` are its two pages.
"""
