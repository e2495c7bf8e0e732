"""The demo in the browser: views.py computes what is shown of an image, panels.py draws it, page.py serves it."""
